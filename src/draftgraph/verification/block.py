"""Block verification of a chain: Sun et al., "Block Verification Accelerates Speculative Decoding", 2403.10444."""

from __future__ import annotations

from typing import ClassVar

import torch

from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import Accepts, Rule
from draftgraph.verification.chain import law_of, ratio


class BlockRule(Rule):
    name: ClassVar[str] = "block"
    source: ClassVar[str] = "Block Verification, arXiv 2403.10444, Algorithm 2"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(frozenset({"fixed", "sampled"}), frozenset({"chain"}))

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        self.check(tree)
        b = [1.0]  # b_i = min(1, b_{i-1} p(X_i) / q(X_i)); the paper's p_i
        residuals: list[torch.Tensor] = []  # (b_i p - q)_+ at position i
        for node, token in enumerate(tree.tokens):
            law = law_of(tree, node, p[node])
            residuals.append((b[node] * p[node] - law).clamp_min_(0.0))
            b.append(min(1.0, b[node] * ratio(float(p[node, token]), float(law[token]))))
        stop = [0.0] * len(b)
        carry = 1.0  # probability that every later position failed
        for i in range(len(b) - 1, -1, -1):
            h = b[i] if i == len(tree) else _keep(residuals[i], b[i], first=i == 0)
            stop[i] = carry * h
            carry *= 1.0 - h

        def bonus(row: int) -> torch.Tensor:
            return residuals[row] if row < len(tree) and bool(residuals[row].any()) else p[row]

        return Outcome(stop, bonus)


def _keep(residual: torch.Tensor, b: float, first: bool) -> float:
    """h_i = r_i / (r_i + 1 - b_i), the acceptance probability of position i; position 0 always stops."""
    mass = float(residual.sum(dtype=torch.float64))
    missing = 1.0 - b  # added to the mass, not "mass + 1 - b": that can round h above 1
    if first or mass + missing <= 0.0:
        return 1.0
    return mass / (mass + missing)
