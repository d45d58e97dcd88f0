"""Which cells a row may read, for every kind of layer: the mask of the draft, cut to the window or chunk of the kind.

Windows count positions, never cells: cells are used again, and siblings share a position.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from draftgraph.backends.base import Feed
from draftgraph.backends.layer_kinds import LayerKind

Mask = npt.NDArray[np.float32]
Given = torch.Tensor | dict[str, torch.Tensor]
"""Masks as models take them: one f[1, 1, rows, cells], or one by the name of every kind."""


def for_kinds(
    kinds: Sequence[LayerKind], mask: Mask, hidden: float, positions: Sequence[int], batch: Sequence[Feed]
) -> list[Mask]:
    """A mask per kind of layer, f32[rows, cells], from that of full attention. Where nothing is cut it is the same array.

    positions  i64[rows] of the rows. batch  was entered into its requests' state already.
    """
    if all(kind.span is None or kind.first_read(max(positions)) == 0 for kind in kinds):
        return [mask] * len(kinds)
    rows, cells = np.asarray(positions), cell_positions(batch, mask.shape[1])
    return [cut(kind, mask, hidden, rows, cells) for kind in kinds]


def cut(kind: LayerKind, mask: Mask, hidden: float, rows: npt.NDArray[np.int64], cells: npt.NDArray[np.int64]) -> Mask:
    """A mask f32[rows, cells] without what lies outside of the window or chunk of a kind, by the positions of rows and cells.

    The same array if nothing does.
    """
    if kind.span is None or kind.first_read(int(rows.max())) == 0:
        return mask
    rows, cells = rows[:, None], cells[None]
    outside = rows // kind.span != cells // kind.span if kind.chunk else rows - cells >= kind.span
    return np.where(outside, np.float32(hidden), mask)


def cell_positions(batch: Sequence[Feed], width: int) -> npt.NDArray[np.int64]:
    """i64[width] the position of every cell that the requests of a pass hold; 0 for others, which no row reads."""
    found = np.zeros(width, dtype=np.int64)
    for text in (feed.text for feed in batch):
        length = len(text)
        found[text.slots] = np.arange(text.forgotten, length)
        for path in text.nodes:
            found[path[-1]] = length + len(path) - 1
    return found


def as_given(kinds: Sequence[LayerKind], masks: Sequence[Mask], device: torch.device, dtype: torch.dtype) -> Given:
    """The masks as the model takes them."""
    if len(kinds) == 1:
        return torch.from_numpy(masks[0]).to(device, dtype)[None, None]
    made = {id(mask): torch.from_numpy(mask).to(device, dtype)[None, None] for mask in masks}
    return {kind.name: made[id(mask)] for kind, mask in zip(kinds, masks, strict=True)}
