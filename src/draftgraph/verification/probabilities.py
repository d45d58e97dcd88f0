"""What target and law say of every drafted token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from draftgraph.sampling.laws import TargetLaws
from draftgraph.types import FIXED, TokenTree
from draftgraph.verification.rows import readable


def target_probabilities(tree: TokenTree, p: torch.Tensor) -> list[float]:
    """p(token | prefix) of every node; p f[N + 1, V] with row 0 at the root and row i + 1 at node i."""
    return _entries(p, [parent + 1 for parent in tree.parents], tree.tokens)


def confirmed(tree: TokenTree, laws: TargetLaws) -> list[float]:
    """`target_probabilities` under the laws of a round."""
    if laws.choices is None:
        return target_probabilities(tree, laws.p)
    return [float(laws.choices[parent + 1] == token) for parent, token in zip(tree.parents, tree.tokens, strict=True)]


def draft_probabilities(tree: TokenTree) -> list[float | None]:
    """The probability of every node's token under the law that it was drawn from; None for FIXED slots."""
    found: list[float | None] = [None] * len(tree)
    if tree.laws is not None:
        sampled = [node for node, row in enumerate(tree.law_row) if row != FIXED]
        values = _entries(tree.laws, [tree.law_row[n] for n in sampled], [tree.tokens[n] for n in sampled])
        for node, value in zip(sampled, values, strict=True):
            found[node] = value
    return found


def _entries(rows: torch.Tensor, numbers: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """rows[numbers[i], tokens[i]] for every i. Read together where every reading would wait for the device."""
    if readable(rows):  # without an operation for each
        entry = rows.numpy(force=True).item
        return [entry(number, token) for number, token in zip(numbers, tokens, strict=True)]
    if rows.is_cpu:
        return [rows[number, token].item() for number, token in zip(numbers, tokens, strict=True)]
    index = torch.from_numpy(np.array((numbers, tokens), dtype=np.int64)).to(rows.device)
    values: list[float] = rows[index[0], index[1]].tolist()
    return values
