"""What target and law say of every drafted token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from draftgraph.sampling.laws import TargetLaws
from draftgraph.types import FIXED, TokenTree
from draftgraph.verification.rows import Rows, held, readable


class Read(NamedTuple):
    """What a rule reads of a round.

    p, laws    rows of target and draft, as what computes with them faster.
    p_of, q_of  what the target and the law that it was drawn from say of every node's token; q is None for FIXED slots.
    """

    p: Rows
    laws: Rows | None
    p_of: list[float]
    q_of: list[float | None]


def read(tree: TokenTree, p: torch.Tensor) -> Read:
    """What there is to read of a draft and its target rows p f[N + 1, V]."""
    rows, laws = held(p, tree.laws)
    if not isinstance(rows, np.ndarray) or isinstance(laws, torch.Tensor):
        return Read(rows, laws, target_probabilities(tree, p), draft_probabilities(tree))
    chance, drawn = rows.item, None if laws is None else laws.item
    return Read(
        rows,
        laws,
        [chance(parent + 1, token) for parent, token in zip(tree.parents, tree.tokens, strict=True)],
        [
            None if row == FIXED or drawn is None else drawn(row, token)
            for row, token in zip(tree.law_row, tree.tokens, strict=True)
        ],
    )


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
