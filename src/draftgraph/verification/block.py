"""Block verification of a chain: Sun et al., "Block Verification Accelerates Speculative Decoding", 2403.10444."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from draftgraph.types import FIXED, Outcome, TokenTree
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
    looked_at = [i for i in range(last + 1, len(tree)) if b[i] > 0.0]  # without a gap: what is 0 stays 0
    residuals = _residuals(tree, p, looked_at, [b[i] for i in looked_at]) if looked_at else p[:0]
    masses = dict(zip(looked_at, residuals.sum(dim=1, dtype=torch.float64).tolist(), strict=True)) if looked_at else {}
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
            return residuals[looked_at.index(row)]
        residual = _residuals(tree, p, [row], [b[row]])[0]
        return residual if bool(residual.any()) else p[row]

    return Outcome(stop, bonus)


def _residuals(tree: TokenTree, p: torch.Tensor, rows: Sequence[int], b: Sequence[float]) -> torch.Tensor:
    """(b_i p - q)_+ at consecutive positions i, f[len(rows), V]."""
    shares = torch.tensor(b, dtype=p.dtype, device=p.device)[:, None]
    return (p[rows[0] : rows[-1] + 1] * shares).sub_(_laws(tree, rows, p)).clamp_(min=0.0)


def _laws(tree: TokenTree, nodes: Sequence[int], p: torch.Tensor) -> torch.Tensor:
    """q of some slots, f[len(nodes), V]."""
    drawn = [tree.law_row[node] for node in nodes]
    if FIXED in drawn or tree.laws is None:
        return torch.stack([law_of(tree, node, p[node]) for node in nodes])
    first = drawn[0]
    in_order = drawn == list(range(first, first + len(drawn)))
    return tree.laws[first : first + len(drawn)] if in_order else tree.laws[drawn]


def _keep(mass: float, b: float) -> float:
    """h_i = r_i / (r_i + 1 - b_i), the acceptance probability of position i > 0 with b_i < 1."""
    return mass / (mass + (1.0 - b))  # added to the mass, not "mass + 1 - b": that can round h above 1
