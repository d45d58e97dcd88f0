"""The rows of many requests as the inputs of one pass of paged attention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from draftgraph.backends.openvino.convert import ROWS
from draftgraph.backends.openvino.pool import SCRATCH, blocks_for
from draftgraph.backends.openvino.text import Rows

LEAST_ASKED = 2
"""Rows that the head gets at least, where the pass has so many: it too computes one row by itself with other roundings."""
Inputs = Mapping[str, npt.NDArray[np.generic]]


def lay_out(batch: Sequence[tuple[Rows, Sequence[int]]], size: int) -> Inputs:
    """Inputs by name. batch  rows of requests with their blocks. size  rows of the pass, with those that only fill it.

    Rows that fill a pass continue the last request and repeat its last row, so that they bring no number that is not there
    already; nobody reads them. They are written behind its cells, or into the scratch block.
    """
    spare = size - sum(len(rows.tokens) for rows, _ in batch)
    tokens = [token for rows, _ in batch for token in rows.tokens]
    positions = [position for rows, _ in batch for position in rows.positions]
    counts = [len(rows.tokens) for rows, _ in batch]
    counts[-1] += spare
    ends = [rows.past + count for (rows, _), count in zip(batch, counts, strict=True)]
    blocks = [_padded(held, blocks_for(end)) for (_, held), end in zip(batch, ends, strict=True)]
    masks = [_mask(rows.visible, count) for (rows, _), count in zip(batch, counts, strict=True)]
    starts = list(accumulate(counts, initial=0))
    asked = [start + row for (rows, _), start in zip(batch, starts, strict=False) for row in rows.asked]
    logits = size if size <= 2 * len(asked) else max(len(asked), min(size, LEAST_ASKED))
    return {
        "input_ids": _i64(tokens + tokens[-1:] * spare),
        "position_ids": _i64(positions + positions[-1:] * spare),
        ROWS: _i64(asked + asked[-1:] * (logits - len(asked))),
        "past_lens": _i32([rows.past for rows, _ in batch]),
        "subsequence_begins": _i32(starts),
        "block_indices": _i32([block for held in blocks for block in held]),
        "block_indices_begins": _begins(map(len, blocks)),
        "max_context_len": np.array(max(ends), dtype=np.int32),
        "qq_bias": np.concatenate(masks) if len(masks) > 1 else masks[0],
        "qq_bias_begins": _begins(map(len, masks)),
    }


def _padded(blocks: Sequence[int], count: int) -> list[int]:
    return [*blocks[:count], *[SCRATCH] * (count - len(blocks))]


def _mask(visible: npt.NDArray[np.uint8] | None, count: int) -> npt.NDArray[np.uint8]:
    """Which rows read which, row by row; empty where every row reads all before it. Rows that fill the pass see themselves."""
    if visible is None:
        return _CAUSAL
    if len(visible) == count:
        return visible.reshape(-1)
    mask = np.eye(count, dtype=np.uint8)
    mask[: len(visible), : len(visible)] = visible
    return mask.reshape(-1)


_CAUSAL = np.zeros(0, dtype=np.uint8)


def _begins(sizes: Iterable[int]) -> npt.NDArray[np.int32]:
    return _i32(list(accumulate(sizes, initial=0)))


def _i64(values: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _i32(values: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.array(values, dtype=np.int32)
