"""Block verification of a chain: Sun et al., "Block Verification Accelerates Speculative Decoding", 2403.10444."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from draftgraph.types import FIXED, Outcome, TokenTree
from draftgraph.verification.base import Accepts, Rule
from draftgraph.verification.chain import ratio
from draftgraph.verification.probabilities import read
from draftgraph.verification.rows import Rows, as_tensor, picked, positive, scaled, sums


class BlockRule(Rule):
    name: ClassVar[str] = "block"
    source: ClassVar[str] = "Block Verification, arXiv 2403.10444, Algorithm 2"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(frozenset({"fixed", "sampled"}), frozenset({"chain"}))
    longest_match: ClassVar[bool] = True

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        if tree.draws is not None or not tree.is_chain:
            self.check(tree)
        return chain_outcome(tree, p)


def chain_outcome(tree: TokenTree, p: torch.Tensor) -> Outcome:
    """The law of the verdict about a chain, which is checked already.

    A position with b = 1 stops whatever has not stopped below it, and one with b = 0 stops nothing. So whole rows are looked at
    only below the deepest position with b = 1, and where the bonus token comes from.
    """
    rows, laws, p_of, q_of = read(tree, p)
    b, last = [1.0], 0  # b_i = min(1, b_{i-1} p(X_i) / q(X_i)); the paper's p_i
    for i, (p_x, q_x) in enumerate(zip(p_of, q_of, strict=True), 1):
        b.append(min(1.0, b[-1] * ratio(p_x, 1.0 if q_x is None else q_x)))
        last = i if b[i] == 1.0 else last
    first = last + 1
    looked_at = b[first : len(tree)] if 0.0 not in b else b[first : min(len(tree), b.index(0.0))]  # what is 0 stays 0
    residuals = _residuals(tree, rows, laws, first, looked_at) if looked_at else rows[:0]
    masses = sums(residuals) if looked_at else []
    stop = [0.0] * len(b)
    carry = 1.0  # probability that every later position failed
    for i in range(len(tree), last - 1, -1):
        below = i - first
        keep = b[i] if i in (last, len(tree)) else _keep(masses[below] if below < len(masses) else 0.0, b[i])
        stop[i] = carry * keep
        carry *= 1.0 - keep

    def bonus(row: int) -> torch.Tensor:
        if row == len(tree):
            return p[row]
        below = row - first
        if 0 <= below < len(masses) and masses[below] > 0.0:
            return as_tensor(residuals[below])
        residual = _residuals(tree, rows, laws, row, [b[row]])[0]
        return as_tensor(residual) if bool(residual.any()) else p[row]

    return Outcome(stop, bonus, p_of, q_of)


def _residuals(tree: TokenTree, p: Rows, laws: Rows | None, first: int, b: Sequence[float]) -> Rows:
    """(b_i p - q)_+ at the positions from `first` on, f[len(b), V]. p, laws  rows of target and draft."""
    end = first + len(b)
    drawn = tree.law_row[first:end]
    left = scaled(p[first:end], b)
    if laws is not None and FIXED not in drawn:
        left -= picked(laws, drawn)
        return positive(left)
    for i, row in enumerate(drawn):
        if row == FIXED or laws is None:  # q is one at its token: of b p nothing is left there, and all of it elsewhere
            left[i, tree.tokens[first + i]] = 0.0
        else:
            left[i] -= laws[row]
    return positive(left)


def _keep(mass: float, b: float) -> float:
    """h_i = r_i / (r_i + 1 - b_i), the acceptance probability of position i > 0 with b_i < 1."""
    return mass / (mass + (1.0 - b))  # added to the mass, not "mass + 1 - b": that can round h above 1
