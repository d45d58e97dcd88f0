"""Block verification of a chain: Sun et al., "Block Verification Accelerates Speculative Decoding", 2403.10444."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import Accepts, Rule
from draftgraph.verification.chain import law_of, ratio
from draftgraph.verification.probabilities import draft_probabilities, target_probabilities


class BlockRule(Rule):
    name: ClassVar[str] = "block"
    source: ClassVar[str] = "Block Verification, arXiv 2403.10444, Algorithm 2"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(frozenset({"fixed", "sampled"}), frozenset({"chain"}))
    longest_match: ClassVar[bool] = True

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        self.check(tree)
        return chain_outcome(tree, p)


def chain_outcome(tree: TokenTree, p: torch.Tensor) -> Outcome:
    """The law of the verdict about a chain, which is checked already.

    A position with b = 1 stops whatever has not stopped below it, and one with b = 0 stops nothing. So whole rows are looked at
    only below the deepest position with b = 1, and where the bonus token comes from.
    """
    b = [1.0]  # b_i = min(1, b_{i-1} p(X_i) / q(X_i)); the paper's p_i
    for p_x, q_x in zip(target_probabilities(tree, p), draft_probabilities(tree), strict=True):
        b.append(min(1.0, b[-1] * ratio(p_x, 1.0 if q_x is None else q_x)))
    last = max(i for i, share in enumerate(b) if share == 1.0)
    residuals = {i: _residual(tree, p, i, b[i]) for i in range(last + 1, len(tree)) if b[i] > 0.0}
    masses = dict(zip(residuals, _sums([*residuals.values()]), strict=True))
    stop = [0.0] * len(b)
    carry = 1.0  # probability that every later position failed
    for i in range(len(tree), last - 1, -1):
        keep = b[i] if i in (last, len(tree)) else _keep(masses.get(i, 0.0), b[i])
        stop[i] = carry * keep
        carry *= 1.0 - keep

    def bonus(row: int) -> torch.Tensor:
        if row == len(tree):
            return p[row]
        if masses.get(row, 0.0) > 0.0:
            return residuals[row]
        residual = _residual(tree, p, row, b[row])
        return residual if bool(residual.any()) else p[row]

    return Outcome(stop, bonus)


def _residual(tree: TokenTree, p: torch.Tensor, i: int, b: float) -> torch.Tensor:
    """(b_i p - q)_+ at position i, f[V]."""
    return (p[i] * b).sub_(law_of(tree, i, p[i])).clamp_(min=0.0)


def _sums(rows: Sequence[torch.Tensor]) -> list[float]:
    """Sums of rows in f64. Read together where every reading would wait for the device."""
    sums = [row.sum(dtype=torch.float64) for row in rows]
    if not sums or sums[0].is_cpu:
        return [float(one) for one in sums]
    together: list[float] = torch.stack(sums).tolist()
    return together


def _keep(mass: float, b: float) -> float:
    """h_i = r_i / (r_i + 1 - b_i), the acceptance probability of position i > 0 with b_i < 1."""
    return mass / (mass + (1.0 - b))  # added to the mass, not "mass + 1 - b": that can round h above 1
