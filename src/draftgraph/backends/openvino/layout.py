"""The rows of many requests as the inputs of one pass of paged attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain

import numpy as np
import numpy.typing as npt

from draftgraph.backends.openvino.convert import ROWS
from draftgraph.backends.openvino.pool import SCRATCH, blocks_for
from draftgraph.backends.openvino.text import Rows

LEAST_ASKED = 2
"""Rows that the head gets at least, where the pass has so many: it too computes one row by itself with other roundings."""
Inputs = Mapping[str, Sequence[float] | npt.NDArray[np.uint8]]
"""Numbers by the name of an input; which are sequences, whatever the input wants, and masks as they are."""


def lay_out(batch: Sequence[tuple[Rows, Sequence[int]]], size: int, least: int = LEAST_ASKED) -> Inputs:
    """Inputs by name. batch  rows of requests with their blocks. size  rows of the pass, with those that only fill it.

    least  rows that the head gets at least, where the pass has so many.

    Rows that fill a pass continue the last request and repeat its last row, so that they bring no number that is not there
    already; nobody reads them. They are written behind its cells, or into the scratch block.
    """
    if len(batch) == 1 and batch[0][0].visible is None:
        return _in_order(*batch[0], size, least)
    counts = [len(rows.tokens) for rows, _ in batch]
    spare = size - sum(counts)
    counts[-1] += spare
    tokens = [token for rows, _ in batch for token in rows.tokens]
    positions = [position for rows, _ in batch for position in rows.positions]
    ends = [rows.past + count for (rows, _), count in zip(batch, counts, strict=True)]
    blocks = [_padded(held, blocks_for(end)) for (_, held), end in zip(batch, ends, strict=True)]
    masks = [_mask(rows.visible, count) for (rows, _), count in zip(batch, counts, strict=True)]
    starts = list(accumulate(counts, initial=0))
    asked = [start + row for (rows, _), start in zip(batch, starts, strict=False) for row in rows.asked]
    return {
        "input_ids": tokens + tokens[-1:] * spare,
        "position_ids": positions + positions[-1:] * spare,
        ROWS: _filled(asked, size, least),
        "past_lens": [rows.past for rows, _ in batch],
        "subsequence_begins": starts,
        "block_indices": list(chain.from_iterable(blocks)),
        "block_indices_begins": list(accumulate(map(len, blocks), initial=0)),
        "max_context_len": [max(ends)],
        "qq_bias": np.concatenate(masks) if len(masks) > 1 else masks[0],
        "qq_bias_begins": list(accumulate(map(len, masks), initial=0)),
    }


def _in_order(rows: Rows, blocks: Sequence[int], size: int, least: int) -> Inputs:
    """The same for one request whose rows each read all before them, which is what most passes are."""
    spare, end = size - len(rows.tokens), rows.past + size
    held = _padded(blocks, blocks_for(end))
    return {
        "input_ids": rows.tokens + rows.tokens[-1:] * spare if spare else rows.tokens,
        "position_ids": rows.positions + rows.positions[-1:] * spare if spare else rows.positions,
        ROWS: _filled(rows.asked, size, least),
        "past_lens": [rows.past],
        "subsequence_begins": [0, size],
        "block_indices": held,
        "block_indices_begins": [0, len(held)],
        "max_context_len": [end],
        "qq_bias": _CAUSAL,
        "qq_bias_begins": _NO_MASK,
    }


def _filled(asked: Sequence[int], size: int, least: int) -> list[int]:
    """The rows of which logits are computed in a pass of `size` rows: those that are asked for, and the last one again."""
    count = len(asked)
    logits = size if size <= 2 * count else max(count, min(size, least))
    return [*asked, *list(asked[-1:]) * (logits - count)]


def _padded(blocks: Sequence[int], count: int) -> Sequence[int]:
    return blocks[:count] if len(blocks) >= count else [*blocks, *[SCRATCH] * (count - len(blocks))]


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
_NO_MASK = [0, 0]
