"""Slow, literal re-statements of rules and random drafts, for comparison with the rules of the library."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import strategies as st

from draftgraph.types import FIXED, ROOT, Outcome, TokenTree
from draftgraph.verification.base import EVERY_STRUCTURE, Accepts, Rule

EVERYTHING = Accepts(frozenset({"fixed", "sampled"}), EVERY_STRUCTURE)


def law(tree: TokenTree, node: int, vocab: int) -> torch.Tensor:
    if tree.law_row[node] == FIXED:
        return torch.eye(vocab, dtype=torch.float64)[tree.tokens[node]]
    return tree.laws[tree.law_row[node]].double()


class LiteralLayer(Rule):
    """The layer rule as its pseudo-code reads. `recompute=False` keeps the capacity at 1: the mistake."""

    name: ClassVar[str] = "literal layer"
    source: ClassVar[str] = "docs/layer_rule.md"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = EVERYTHING

    def __init__(self, recompute: bool = True) -> None:
        self.recompute = recompute

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        w = [1.0] + [0.0] * len(tree)
        residual = {0: p[0].double()}
        live, layers = [0], []
        while live:
            f = 0.0 if not layers else 1.0 - sum(w[row] for row in live)
            for row in live:
                residual[row] = w[row] * p[row].double()
            m, c = 1.0, 1.0
            order = [node for row in sorted(live, key=lambda r: -w[r]) for node in tree.children[row]]
            for node in sorted(order, key=lambda n: tree.law_row[n] == FIXED):
                r, lam = residual[tree.parents[node] + 1], law(tree, node, p.shape[1])
                x = tree.tokens[node]
                a = min(1.0, float(r[x] / (c * lam[x]))) if c * float(lam[x]) > 0 else 0.0
                w[node + 1] = m * a
                m *= 1.0 - a
                residual[tree.parents[node] + 1] = (r - c * lam).clamp(min=0.0)
                if self.recompute:
                    c = f + sum(float(residual[row].sum()) for row in live)
            layers.append((f, live))
            live = [node + 1 for node in order if w[node + 1] > 0.0]
        stop, carry = [0.0] * (len(tree) + 1), 1.0
        for f, rows in reversed(layers):
            r = sum(float(residual[row].sum()) for row in rows)
            for row in rows:
                stop[row] = carry * float(residual[row].sum()) / (r + f) if r + f > 0 else 0.0
            carry *= f / (r + f) if r + f > 0 else 1.0
        return Outcome(stop, lambda row: residual[row])


class SiblingsWithoutResidual(Rule):
    """Token verification stretched to trees: every sibling is tested against the same p, as if it were the first."""

    name: ClassVar[str] = "token on trees"
    source: ClassVar[str] = "a mistake"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = EVERYTHING

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        reach = [1.0] + [0.0] * len(tree)
        stop = [0.0] * (len(tree) + 1)
        bonus = {}
        for row in range(len(tree) + 1):
            left, rest = reach[row], p[row].double()
            for node in tree.children[row]:
                x, lam = tree.tokens[node], law(tree, node, p.shape[1])
                a = min(1.0, float(p[row, x] / lam[x]))
                reach[node + 1] = left * a
                left *= 1.0 - a
                rest = (rest - lam).clamp(min=0.0)
            stop[row], bonus[row] = left, rest if bool(rest.any()) else p[row]
        return Outcome(stop, lambda row: bonus[row])


def recursive_rejection(tree: TokenTree, p: torch.Tensor) -> Outcome:
    """Recursive rejection (MCSD, arXiv 2401.06706; SpecInfer, arXiv 2305.09781) at depth 1, SAMPLED slots first."""
    stop = [0.0] * (len(tree) + 1)
    reach, r = 1.0, p[0].double()
    for node in sorted(range(len(tree)), key=lambda n: tree.law_row[n] == FIXED):
        x, lam = tree.tokens[node], law(tree, node, p.shape[1])
        a = min(1.0, float(r[x] / lam[x])) if float(r.sum()) > 0 else 0.0
        stop[node + 1] = reach * a
        reach *= 1.0 - a
        r = (r - lam).clamp(min=0.0)
        if float(r.sum()) > 0:
            r = r / r.sum()
    stop[0] = reach
    return Outcome(stop, lambda row: r if row == 0 else p[row])


def assert_same(a: Outcome, b: Outcome, atol: float = 1e-12) -> None:
    """Two outcomes are the same law: of the end of the path, and of the bonus token wherever it can end."""
    torch.testing.assert_close(torch.tensor(a.stop), torch.tensor(b.stop), rtol=0, atol=atol)
    for row, (x, y) in enumerate(zip(a.stop, b.stop, strict=True)):
        if min(x, y) > 1e-9:
            first, second = a.bonus(row).double(), b.bonus(row).double()
            torch.testing.assert_close(first / first.sum(), second / second.sum(), rtol=0, atol=max(atol, 1e-9))


def assert_law_within_support(outcome: Outcome, p: torch.Tensor) -> None:
    """The ends of the path have a law, and no bonus token is one that the target, p f[N + 1, V], rules out."""
    assert min(outcome.stop) >= 0.0
    assert sum(outcome.stop) == pytest.approx(1.0, abs=1e-12)
    for row, stop in enumerate(outcome.stop):
        if stop > 0.0:
            assert bool(outcome.bonus(row).any())
            assert not bool((outcome.bonus(row)[p[row] == 0.0] > 0.0).any())


def rows(generator: torch.Generator, n: int, vocab: int, zeros: float = 0.3) -> torch.Tensor:
    """f64[n, V], random laws, some entries zero."""
    logits = 1.5 * torch.randn(n, vocab, dtype=torch.float64, generator=generator)
    zero = torch.rand(n, vocab, generator=generator) < zeros
    logits[zero & (logits < logits.amax(-1, keepdim=True))] = -torch.inf
    return logits.softmax(-1)


@st.composite
def drafts(
    draw: st.DrawFn, structure: str = "tree", laws: str = "mixed", most: int = 7, depth: int = 9
) -> tuple[TokenTree, torch.Tensor]:
    """A random (draft, p f64[N + 1, V]): any shape, tokens, laws and supports."""
    n = draw(st.integers(0, most))
    vocab = draw(st.integers(2, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    q, p = rows(generator, n, vocab), rows(generator, n + 1, vocab)
    tokens, parents, law_row, levels = [], [], [], []
    for node in range(n):
        allowed = [ROOT] + [i for i in range(node) if levels[i] < depth]
        parent = node - 1 if structure == "chain" else draw(st.sampled_from(allowed))
        sampled = laws == "sampled" or (laws == "mixed" and draw(st.booleans()))
        tokens.append(int(torch.multinomial(q[node], 1, generator=generator)))
        parents.append(parent)
        law_row.append(node if sampled else FIXED)
        levels.append(1 if parent == ROOT else levels[parent] + 1)
    return TokenTree(tokens, parents, law_row, q if n else None), p
