"""What rules that test the slots of a node one after the other share: the target mass that a failed slot leaves."""

from __future__ import annotations

import torch

from draftgraph.types import FIXED, TokenTree
from draftgraph.verification.chain import ratio


def spend(tree: TokenTree, node: int, residual: torch.Tensor, capacity: float) -> float:
    """The probability min(1, R[x] / (c l[x])) of accepting a slot (x, l); R, f[V], becomes (R - c l)_+ in place."""
    token = tree.tokens[node]
    value = float(residual[token])
    if tree.law_row[node] == FIXED:  # l is one at x: the rest of R stays
        residual[token] = 0.0
        return min(1.0, ratio(value, capacity))
    law = tree.laws[tree.law_row[node]]  # type: ignore[index]  # checked when the tree was built
    residual.sub_(law, alpha=capacity).clamp_min_(0.0)
    return min(1.0, ratio(value, capacity * float(law[token])))


def mass(residual: torch.Tensor) -> float:
    """|R| of f[V], summed in f64."""
    return float(residual.sum(dtype=torch.float64))
