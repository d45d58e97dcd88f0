"""The prover: is a rule lossless? Exact output laws over every draft, and controls that must be caught.

`prove(rule)` enumerates every draft of every case (structure x laws x tables), integrates the rule's randomness by
reading the law it states, and compares the law of the emitted text with the target's. On paper: docs/layer_rule.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from draftgraph.errors import DraftError, OptionError, unknown_name
from draftgraph.proof.addressing import ADDRESSES, agree_mismatches
from draftgraph.proof.cases import CASES, Case
from draftgraph.proof.controls import CONTROLS, DEPTH, Control
from draftgraph.proof.law import KINDS, Tables, enumerate_draws, output_law, random_tables, total_variation
from draftgraph.verify import get_rule
from draftgraph.verify.base import Rule

__all__ = ["CaseRow", "ControlRow", "Proof", "enumerate_draws", "output_law", "prove", "total_variation"]

VISIBLE = 1e-3
"""A negative control must be at least this far from the target's law."""
_PAIRS = 3
"""Pairs of tables per case and kind, so that no result hangs on one lucky pair."""
_CONTROL_PAIRS = 8
_CONTROL_VOCAB = 3
_MOST_DRAFTS = 7000


@dataclass(frozen=True)
class CaseRow:
    """One case of a proof.

    drafts           drafts enumerated, over all tables.
    tv               largest total variation over the tables; None if the rule refuses the case.
    expected_tokens  expected tokens of a round, mean over the random tables (or over all, without random ones).
    refused          why the rule refuses the case, or None.
    """

    structure: str
    laws: str
    vocab: int
    depth: int
    drafts: int
    tv: float | None
    expected_tokens: float | None
    refused: str | None = None


@dataclass(frozen=True)
class ControlRow:
    """One control: a mistake must fail (tv above `VISIBLE`), a repair must not (tv within the tolerance)."""

    name: str
    source: str
    tv: float
    must_fail: bool
    failed: bool


@dataclass(frozen=True)
class Proof:
    """What `prove` found.

    lossless  what the rule claims.
    holds     every accepted case is within the tolerance (and there is one), and every control behaves.
    max_tv    largest total variation over the accepted cases.
    """

    rule: str
    lossless: bool
    holds: bool
    max_tv: float
    tolerance: float
    tables: tuple[str, ...]
    cases: tuple[CaseRow, ...]
    controls: tuple[ControlRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for `json.dumps`."""
        return asdict(self)


def prove(
    rule: str | Rule,
    *,
    vocab: int = 3,
    depth: int = 3,
    cases: Iterable[Case] | None = None,
    tables: Sequence[str] = KINDS,
    tolerance: float = 1e-12,
    seed: int = 0,
    controls: bool = True,
    dtype: torch.dtype = torch.float64,
    progress: Callable[[CaseRow | ControlRow], None] | None = None,
) -> Proof:
    """The exact law of what a rule emits, by enumeration over drafts and integration over its randomness.

    rule       a rule or its name.
    vocab      tokens in the vocabulary, at least 2.
    depth      drafted tokens per path, at least 1; vocab ** (2 * depth) must not exceed 7000 (4 tokens: depth 3).
    cases      draft programs; all of `proof.cases.CASES` by default.
    tables     kinds of target and drafter, of "random", "sparse", "disjoint", "equal", "greedy".
    tolerance  largest total variation that counts as lossless (1e-5 suits dtype=torch.float32).
    controls   also run the published mistakes, each of which must be caught, and their repairs.
    dtype      of p and q as the rule sees them; the laws are compared in f64.
    progress   called with every finished row.

    Raises OptionError for an unknown rule, an unknown kind of tables, or sizes that cannot be enumerated.
    """
    chosen = get_rule(rule)
    _check_options(vocab, depth, tables)
    rows: list[CaseRow] = []
    control_rows: list[ControlRow] = []
    for case in CASES if cases is None else cases:
        rows.append(_case_row(chosen, case, vocab, depth, tables, seed, dtype))
        _report(progress, rows[-1])
    if chosen.position_noise:
        rows.append(_pathwise_row(chosen, vocab, depth, seed))
        _report(progress, rows[-1])
    for control in (*CONTROLS, *ADDRESSES) if controls else ():
        control_rows.append(_control_row(control, seed))
        _report(progress, control_rows[-1])
    proven = [row.tv for row in rows if row.tv is not None]
    max_tv = max(proven, default=0.0)
    holds = bool(proven) and max_tv <= tolerance and all(row.failed == row.must_fail for row in control_rows)
    return Proof(
        chosen.name, chosen.lossless, holds, max_tv, tolerance, tuple(tables), tuple(rows), tuple(control_rows)
    )


def _case_row(
    rule: Rule, case: Case, vocab: int, depth: int, kinds: Sequence[str], seed: int, dtype: torch.dtype
) -> CaseRow:
    program = case.program(depth)
    drafts, worst = 0, 0.0
    tokens: list[float] = []
    for kind in sorted(kinds, key=KINDS.index):
        for pair in range(_PAIRS):
            exact = random_tables(kind, vocab, depth, _table_seed(seed, kind, pair))
            try:
                emitted = output_law(rule, exact.to(dtype), program, depth + 1)
            except DraftError as error:
                return CaseRow(case.structure, case.laws, vocab, depth, 0, None, None, str(error))
            drafts += emitted.drafts
            worst = max(worst, _tv(emitted.law, exact))
            if kind == "random" or "random" not in kinds:
                tokens.append(emitted.expected_tokens)
    return CaseRow(case.structure, case.laws, vocab, depth, drafts, worst, sum(tokens) / len(tokens))


def _tv(law: torch.Tensor, tables: Tables) -> float:
    """NaN counts as completely wrong."""
    tv = total_variation(law, tables.target_law(tables.depth + 1))
    return tv if tv == tv else 1.0


def _pathwise_row(rule: Rule, vocab: int, depth: int, seed: int) -> CaseRow:
    """With noise by position the text must be that of plain seeded sampling: the share of runs where it is not."""
    mismatches, runs = agree_mismatches(rule, vocab, depth, seed)
    return CaseRow("every structure", "noise shared with the drafter", vocab, depth, runs, mismatches / runs, None)


def _control_row(control: Control, seed: int) -> ControlRow:
    tvs = [
        control.tv(random_tables("random", _CONTROL_VOCAB, DEPTH, _table_seed(seed, "random", pair)))
        for pair in range(_CONTROL_PAIRS)
    ]
    tv = max(tvs)
    # a repair is held to rounding error, whatever tolerance the rule itself is given
    return ControlRow(
        control.name, control.source, tv, control.must_fail, tv > (VISIBLE if control.must_fail else 1e-12)
    )


def _table_seed(seed: int, kind: str, pair: int) -> int:
    return (seed * len(KINDS) + KINDS.index(kind)) * 16 + pair


def _report(progress: Callable[[CaseRow | ControlRow], None] | None, row: CaseRow | ControlRow) -> None:
    if progress is not None:
        progress(row)


def _check_options(vocab: int, depth: int, kinds: Sequence[str]) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("kind of tables", kind, KINDS)
    if not kinds:
        raise OptionError(f"tables must name at least one kind; possible: {', '.join(KINDS)}")
    # the widest cases draw two sampled chains below the root, or a few times as many drafts
    if vocab < 2 or depth < 1 or vocab ** (2 * depth) > _MOST_DRAFTS:
        raise OptionError(
            f"vocab={vocab}, depth={depth} cannot be enumerated; use vocab >= 2 and depth >= 1 with "
            f"vocab ** (2 * depth) <= {_MOST_DRAFTS}, e.g. vocab=3, depth=3"
        )
