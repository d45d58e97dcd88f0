"""Block verification of a chain: Sun et al., "Block Verification Accelerates Speculative Decoding", 2403.10444."""

from __future__ import annotations

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
        b = [1.0]  # b_i = min(1, b_{i-1} p(X_i) / q(X_i)); the paper's p_i
        for p_x, q_x in zip(target_probabilities(tree, p), draft_probabilities(tree), strict=True):
            b.append(min(1.0, b[-1] * ratio(p_x, 1.0 if q_x is None else q_x)))
        residuals = _residuals(tree, p, b)
        masses = residuals.sum(dim=1, dtype=torch.float64).tolist()
        stop = [0.0] * len(b)
        carry = 1.0  # probability that every later position failed
        for i in range(len(b) - 1, -1, -1):
            h = b[i] if i == len(tree) else _keep(masses[i], b[i], first=i == 0)
            stop[i] = carry * h
            carry *= 1.0 - h

        def bonus(row: int) -> torch.Tensor:
            return residuals[row] if row < len(tree) and masses[row] > 0.0 else p[row]

        return Outcome(stop, bonus)


def _residuals(tree: TokenTree, p: torch.Tensor, b: list[float]) -> torch.Tensor:
    """(b_i p - q)_+ at every position i, f[N, V]."""
    in_order = tree.laws is not None and list(tree.law_row) == list(range(len(tree.laws)))
    laws = tree.laws if in_order else [law_of(tree, node, p[node]) for node in range(len(tree))]
    q = laws if isinstance(laws, torch.Tensor) else torch.stack(laws) if laws else p[:0]
    shares = torch.tensor(b[:-1], dtype=p.dtype, device=p.device)[:, None]
    return (shares * p[:-1]).sub_(q).clamp_(min=0.0)


def _keep(mass: float, b: float, first: bool) -> float:
    """h_i = r_i / (r_i + 1 - b_i), the acceptance probability of position i; position 0 always stops."""
    missing = 1.0 - b  # added to the mass, not "mass + 1 - b": that can round h above 1
    if first or mass + missing <= 0.0:
        return 1.0
    return mass / (mass + missing)
