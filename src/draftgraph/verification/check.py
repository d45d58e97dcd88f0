"""dg.verify: one draft verified by one rule, as a pure function."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from draftgraph.errors import DraftError
from draftgraph.sampling.rng import Noise
from draftgraph.types import FIXED, TokenTree, Verdict
from draftgraph.verification.base import Rule
from draftgraph.verification.probabilities import draft_probabilities
from draftgraph.verification.registry import get_rule


def verify(
    rule: str | Rule,
    tokens: Sequence[int] | torch.Tensor,
    parents: Sequence[int] | torch.Tensor,
    law_row: Sequence[int] | torch.Tensor,
    laws: torch.Tensor | None,
    p: torch.Tensor,
    seed: int,
    draws: Sequence[int] | torch.Tensor | None = None,
    confidence: Sequence[float] | torch.Tensor | None = None,
) -> Verdict:
    """Verify one draft: a pure function, no model.

    tokens   i64[N] drafted token ids.
    parents  i64[N], -1 for a child of the root; parents[i] < i.
    law_row  i64[N], the row of `laws` that the token was drawn from, or -1 for FIXED (a point mass).
    laws     f[G, V], rows over V; None if every slot is FIXED.
    p        f[N + 1, V] target law: row 0 at the root, row i + 1 at node i.
    seed     any integer; the same arguments give the same verdict.
    draws    i64[N], for one draw under several parents: the first node that hangs on the draw (itself for its own).
    confidence  f[N] from 0 to 1, for rules that ask how sure the drafter was; None: it did not say.

    The SAMPLED slots of a node are verified in index order, then the FIXED ones.
    Raises DraftError for a draft or a law that the rule cannot use.
    """
    chosen = get_rule(rule)
    p = torch.as_tensor(p)
    tree = TokenTree(
        _ints(tokens),
        _ints(parents),
        _ints(law_row),
        None if laws is None else torch.as_tensor(laws),
        None if draws is None else _ints(draws),
        confidence=None if confidence is None else [float(value) for value in confidence],
    )
    check_laws(tree, p)
    chosen.check(tree)
    return chosen.verdict(tree, p, Noise(int(seed)), 0)


def check_laws(tree: TokenTree, p: torch.Tensor) -> None:
    """Refuse rows that are not distributions, tokens outside the vocabulary, draws of probability zero, repeated slots.

    Raises DraftError.
    """
    if p.ndim != 2 or len(p) != len(tree) + 1:
        raise DraftError(
            f"p must have shape [N + 1, V] = [{len(tree) + 1}, V], a row for the root and one for every node; "
            f"got {list(p.shape)}"
        )
    check_rows("p", p, p.shape[1])
    check_slots(tree, p.shape[1])
    if tree.laws is not None:
        check_rows("laws", tree.laws, p.shape[1])
        check_draws(tree)


def check_rows(name: str, rows: torch.Tensor, vocab: int) -> None:
    """Refuse rows that are not distributions over `vocab` tokens. Raises DraftError."""
    if rows.ndim != 2 or rows.shape[1] != vocab or not rows.is_floating_point():
        raise DraftError(f"{name} must be floating-point rows over V = {vocab}; got {list(rows.shape)} {rows.dtype}")
    if not bool(torch.isfinite(rows).all()) or bool((rows < 0).any()):
        raise DraftError(f"{name} has negative, infinite or NaN entries; pass probabilities, not logits")
    sums = rows.sum(dim=1, dtype=torch.float64)
    worst = int((sums - 1.0).abs().argmax()) if len(sums) else 0
    tolerance = 1e-3 if rows.dtype in (torch.float32, torch.float64) else 2e-2
    if len(sums) and abs(float(sums[worst]) - 1.0) > tolerance:
        raise DraftError(f"row {worst} of {name} sums to {float(sums[worst]):.4g}, not 1")


def check_slots(tree: TokenTree, vocab: int) -> None:
    """Refuse tokens outside the vocabulary, and FIXED slots that occur twice. Raises DraftError."""
    slots: dict[tuple[int, int], int] = {}
    for node, (parent, token, row) in enumerate(zip(tree.parents, tree.tokens, tree.law_row, strict=True)):
        if not 0 <= token < vocab:
            raise DraftError(f"node {node} has token {token}, outside the vocabulary of {vocab}")
        if row == FIXED:
            first = slots.setdefault((parent, token), node)
            if first != node:
                raise DraftError(
                    f"nodes {first} and {node} are duplicate slots: the same FIXED token behind the same parent"
                )


def check_draws(tree: TokenTree) -> None:
    """Refuse SAMPLED slots whose law gives their token no mass. Raises DraftError."""
    for node, chance in enumerate(draft_probabilities(tree)):
        if chance is not None and chance <= 0.0:
            row, token = tree.law_row[node], tree.tokens[node]
            raise DraftError(f"node {node} claims to be drawn from law row {row}, which gives token {token} no mass")


def _ints(values: Sequence[int] | torch.Tensor) -> list[int]:
    return [int(v) for v in values]
