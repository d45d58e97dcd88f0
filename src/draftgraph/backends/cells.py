"""A key/value cache that is a pool of cells: rows are written where they are told, and paths are kept by keeping cells.

Which cells are in use is written down in one place, the requests' own handles. A request that is closed, or whose handle is
gone, has let go of its cells in that moment: nothing has to be given back, and no interrupt can come in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from draftgraph.backends.base import CacheHandle

KEPT_CELLS = 1024
"""Cells whose memory stays when no request is open, so that short requests need not ask for it again."""


@dataclass
class Memory:
    """tensors  per layer its keys and values, f[1, heads, cells, head_dim]; None before the first pass, and once dropped."""

    tensors: list[list[torch.Tensor | None]]


class CellLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of the pool; which cells a row may read is the mask's business."""

    def __init__(self, pool: CellPool, number: int) -> None:
        super().__init__()
        self.pool, self.number = pool, number

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: memory is made, and made larger or smaller, where it is written."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pool, tensors = self.pool, self.pool.memory.tensors[self.number]
        for i, states in enumerate((key_states, value_states)):
            name = pool.told.get((self.number, i))
            if name is not None:
                pool.heard[name] = states.transpose(1, 2).flatten(2)
            held = _fitted(tensors[i], states, pool.capacity)
            tensors[i] = held.index_copy_(2, pool.written, states)
        keys, values = (held[:, :, : pool.high] for held in tensors if held is not None)
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.pool.high, 0

    def get_seq_length(self) -> int:
        """Cells beside those that the pass writes; with these, as many as `get_mask_sizes` says."""
        return self.pool.high - len(self.pool.written)

    def get_max_length(self) -> int:
        return -1


def _fitted(held: torch.Tensor | None, like: torch.Tensor, cells: int) -> torch.Tensor:
    """A tensor of that many cells with what was held; the memory of a new one is zeroed: a masked NaN would still
    poison the attention sum."""
    if held is not None and held.shape[2] == cells:
        return held
    fitted = like.new_zeros((1, like.shape[1], cells, like.shape[3]))
    if held is not None:
        most = min(cells, held.shape[2])
        fitted[:, :, :most] = held[:, :, :most]
    return fitted


class CellPool(Cache):  # type: ignore[misc]
    """The pool that all requests of one model share. The lowest free cells are used first, so that reads stay short.

    capacity  cells that have memory, from the next pass on.
    high      cells that a pass reads: up to the highest one in use.
    written   i64[rows] cells that the pass writes.
    told      names of keys (0) and values (1) by layer, of which `heard` gets the rows f[1, rows, width] that a pass writes.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__(layers=[CellLayer(self, number) for number in range(num_layers)])
        self.capacity = 0
        self.high = 0
        self.written = torch.empty(0, dtype=torch.long)
        self.memory = Memory([[None, None] for _ in self.layers])
        self.told: Mapping[tuple[int, int], str] = {}
        self.heard: dict[str, torch.Tensor] = {}
        self._handles: WeakValueDictionary[int, CacheHandle] = WeakValueDictionary()
        self._doubtful = False

    @property
    def handles(self) -> list[CacheHandle]:
        """The handles that may hold cells, those of other threads included."""
        return [handle for ref in self._handles.valuerefs() if (handle := ref()) is not None]

    @property
    def cell_bytes(self) -> int:
        """Bytes of one cell in all layers; 0 before the first pass."""
        held = [tensor for layer in self.memory.tensors for tensor in layer if tensor is not None]
        return sum(tensor.shape[1] * tensor.shape[3] * tensor.itemsize for tensor in held)

    @property
    def _used(self) -> set[int]:
        """The cells in use."""
        return {cell for handle in self.handles for cell in handle.cells().tolist()}

    def find(self, handles: Sequence[CacheHandle], count: int) -> list[int]:
        """The `count` > 0 lowest free cells, for rows of these handles. A cell is in use as soon as a handle names it."""
        for handle in handles:
            self._handles[id(handle)] = handle
        held = [(handle.room, handle.cells()) for handle in self.handles]
        used = np.concatenate([cells for _, cells in held])
        end = int(used.max(initial=-1)) + 1
        free = np.ones(end + count, dtype=bool)
        free[used] = False
        found: list[int] = free.nonzero()[0][:count].tolist()
        self.high = max(end, found[-1] + 1)
        taken = end - int(np.count_nonzero(free[:end]))
        self._fit(max(self.high, taken + sum(max(0, room - len(cells)) for room, cells in held)))
        return found

    def share(self, handle: CacheHandle, other: CacheHandle, count: int) -> int:
        """Let a handle name the first `count` cells of another one too. Returns how many there are."""
        self._handles[id(handle)] = handle
        handle.slots = other.slots[:count]
        self.memory = Memory(self.memory.tensors)  # see `begin`
        if not len(other.slots):  # it was closed by another thread, which may have dropped the memory
            handle.clear()
        return len(handle.slots)

    def _fit(self, needed: int) -> None:
        """Grow by half at least, so that growing stays rare; halve what is mostly empty, down to KEPT_CELLS."""
        if needed > self.capacity:
            self.capacity = max(needed, self.capacity + self.capacity // 2)
        elif self.capacity > max(KEPT_CELLS, 4 * needed):
            self.capacity = max(KEPT_CELLS, 2 * needed)

    def begin(self, cells: Sequence[int], device: torch.device) -> None:
        """A pass begins that writes these cells. Zero those that a failed pass has written: they may hold NaN."""
        if self._doubtful:
            for held in (held for layer in self.memory.tensors for held in layer if held is not None):
                held.index_fill_(2, self.written[self.written < held.shape[2]], 0.0)
        self.written = torch.tensor(cells, device=device)
        self._doubtful = True
        # From here on nobody else drops the memory: `drop` either sees the cells of this pass, or has looked at the old one.
        self.memory = Memory(self.memory.tensors)

    @contextmanager
    def telling(self, told: Mapping[tuple[int, int], str], heard: dict[str, torch.Tensor]) -> Iterator[None]:
        """Passes inside tell `heard` what they write, see `told`."""
        self.told, self.heard = told, heard
        try:
            yield
        finally:
            self.told, self.heard = {}, {}

    def end(self) -> None:
        """The pass that has begun came out well."""
        self._doubtful = False

    def drop_unused(self) -> None:
        """Give memory back if no request holds a cell, and it is more than KEPT_CELLS. Takes no lock, for it is called when
        requests close: perhaps by the garbage collector, in the middle of a pass."""
        memory = self.memory
        if self.capacity > KEPT_CELLS and not any(len(handle.cells()) for handle in self.handles):
            memory.tensors = [[None, None] for _ in self.layers]

    def release(self) -> None:
        """Give all memory back if no request holds a cell. To be called between passes."""
        if not any(len(handle.cells()) for handle in self.handles):
            self.capacity = self.high = 0
            self.memory = Memory([[None, None] for _ in self.layers])


def cell_numbers(config: Any) -> int:
    """Numbers that a token takes in keys and values of all layers, as a configuration says."""
    queries = getattr(config, "num_attention_heads", None) or 1
    heads = getattr(config, "num_key_value_heads", None) or queries
    width = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // queries
    return 2 * int(config.num_hidden_layers) * int(heads) * int(width)
