"""What block and token verification share: the rows of a chain, and a stable positive part."""

from __future__ import annotations

import torch

from draftgraph.types import FIXED, TokenTree


def law_of(tree: TokenTree, node: int, like: torch.Tensor) -> torch.Tensor:
    """q of a slot as f[V]: the tensor it was drawn from, or the point mass of a FIXED slot."""
    if tree.law_row[node] != FIXED:
        return tree.laws[tree.law_row[node]]  # type: ignore[index]  # checked when the tree was built
    point = torch.zeros_like(like)
    point[tree.tokens[node]] = 1.0
    return point


def ratio(p: float, q: float) -> float:
    """p / q; a token that the draft cannot have drawn (q = 0) is rejected."""
    return p / q if q > 0.0 else 0.0
