"""Passes of fixed shapes: the cells and the input buffers of one bucket, whose addresses never change.

What has fixed shapes and addresses can be recorded once and replayed, as CUDA graphs are. Nothing here knows of graphs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from draftgraph.backends.base import CacheHandle, Feed
from draftgraph.backends.cell_rows import wanted_rows
from draftgraph.backends.cells import CellPool

SCRATCH_CELL = 0
"""The cell that padded rows write, and the only one that they read."""
LEAST_CELLS = 256
"""Cells of the smallest bucket; between one and the bucket of twice its size there are three others."""
LEAST_CAPACITY = 2048
"""Cells that get memory at first."""
_WORDS = 4
"""Whole numbers per row: token, position, cell, wanted row."""


def bucket_rows(rows: int) -> int:
    """The bucket of a pass: the least power of two that holds its rows."""
    return 1 << (rows - 1).bit_length()


def bucket_cells(cells: int) -> int:
    """The least bucket that holds so many cells: of what is read, at most a fifth is read in vain."""
    double = LEAST_CELLS
    while 2 * double < cells:
        double *= 2
    return max(LEAST_CELLS, -(-cells // (double // 4)) * (double // 4))


class StaticPool(CellPool):
    """A pool whose memory stays where it is as long as no more cells are needed, and that is read in buckets of cells.

    Its memory is never given back while the model is in use: what was recorded would have to be recorded again.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__(num_layers)
        self.scratch = CacheHandle(1, np.array([SCRATCH_CELL], dtype=np.int64))

    def find(self, handles: Sequence[CacheHandle], count: int) -> list[int]:
        found = super().find([*handles, self.scratch], count)
        self.high = bucket_cells(self.high)
        return found

    def begin_at(self, written: torch.Tensor) -> None:
        """A pass begins that writes the cells which stand in i64[rows] `written` when it runs."""
        self.begin((), written.device)
        self.written = written

    def _fit(self, needed: int) -> None:
        """At least double, for everything is recorded again when the memory moves."""
        if bucket_cells(needed) > self.capacity:
            self.capacity = max(LEAST_CAPACITY, 2 * bucket_cells(needed))


class StaticPass:
    """The inputs of all passes of one bucket, on the device, and where they are written on the host.

    ids, positions, written  i64[rows] of every row; written are its cells.
    wanted  i64[rows] rows that need logits, those first.
    hidden  u8[rows, cells] 1 where a row may not read a cell.

    Padded rows read token 0 at position 0, and write and see the scratch cell alone. One copy brings everything over.
    """

    def __init__(self, rows: int, cells: int, device: torch.device) -> None:
        self.rows, self.cells = rows, cells
        words = _WORDS * rows * 8
        on_gpu = device.type == "cuda"
        self._host = torch.zeros(words + rows * cells, dtype=torch.uint8, pin_memory=on_gpu)
        self._device = torch.zeros(words + rows * cells, dtype=torch.uint8, device=device)
        self._copied = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        self._words = self._host[:words].view(torch.int64).view(_WORDS, rows).numpy()
        self._hidden = self._host[words:].view(rows, cells).numpy()
        self.ids, self.positions, self.written, self.wanted = self._device[:words].view(torch.int64).view(_WORDS, rows)
        self.hidden = self._device[words:].view(rows, cells)

    def load(
        self, feeds: Sequence[Feed], cells: Sequence[int], positions: Sequence[int], mask: npt.NDArray[np.float32]
    ) -> int:
        """Write a pass into the buffers; returns how many of its rows need logits.

        cells, positions  of every row. mask  f32[rows, cells] 0 where a row may read a cell.
        """
        if self._copied is not None:
            self._copied.synchronize()  # the pass before has been read, even if it was interrupted
        tokens = [token for feed in feeds for token in (*feed.committed, *feed.tokens)]
        wanted, count = wanted_rows(feeds), len(tokens)
        words, hidden = self._words, self._hidden
        words[0, :count], words[1, :count], words[2, :count] = tokens, positions, cells
        words[3, : len(wanted)] = wanted
        words[:3, count:] = SCRATCH_CELL  # which is 0, as are their token and position
        words[3, len(wanted) :] = 0
        np.copyto(hidden[:count], mask != 0.0)
        hidden[count:] = 1
        hidden[count:, SCRATCH_CELL] = 0
        self._device.copy_(self._host, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        return len(wanted)
