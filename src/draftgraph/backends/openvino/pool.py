"""Memory for keys and values in blocks of cells, which all requests of one graph share.

As in `backends.cells`, the requests' own handles say which blocks are in use, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from draftgraph.backends.openvino.cell_memory import cell_memory
from draftgraph.backends.openvino.text import BlockHandle

CELLS = 32
"""Cells of a block, as the kernels of OpenVINO want it on a CPU."""
KEPT_BLOCKS, KEPT_BYTES = 32, 128 << 20
"""So many blocks, or what fits into so many bytes if that is more, stay when no request is open. Memory that comes and goes has
to be zeroed by the system again: that was a fifth of the time of 16 short requests of the bundled pair."""
SCRATCH = 0
"""The block that rows are written to which are there only to fill a pass."""


@dataclass(frozen=True)
class Shape:
    """Sizes of one layer's keys or values. name  of the graph's input for them."""

    name: str
    heads: int
    width: int


Attach = Callable[[str, npt.NDArray[np.generic]], None]
"""attach(input, memory [blocks, heads, CELLS, width]) -> the graph reads and writes it from now on."""


class BlockPool:
    """The lowest free blocks are used first: memory that is never written is never really there (`cell_memory.py`).

    capacity  blocks that there is room for. kept  those whose memory stays when no request is open.
    huge      whether their memory is in huge pages.
    """

    def __init__(self, shapes: Sequence[Shape], kind: np.dtype[np.generic], attach: Attach) -> None:
        self.shapes, self.kind, self._graphs = shapes, kind, [attach]
        self._sizes = list(dict.fromkeys((shape.heads, shape.width) for shape in shapes))
        self._memory: list[npt.NDArray[np.generic]] = []
        self._replaced: list[npt.NDArray[np.generic]] = []
        self._handles: WeakValueDictionary[int, BlockHandle] = WeakValueDictionary()
        self.huge = False
        self.kept = max(KEPT_BLOCKS, KEPT_BYTES // (CELLS * self.cell_bytes))
        self._resize(self.kept, 0, huge=False)

    @property
    def capacity(self) -> int:
        return int(self._memory[0].shape[1]) if self._memory else 0

    @property
    def handles(self) -> list[BlockHandle]:
        """The handles that may hold blocks, those of other threads included."""
        return [handle for ref in self._handles.valuerefs() if (handle := ref()) is not None]

    @property
    def cell_bytes(self) -> int:
        """Bytes of one cell in all layers."""
        return sum(shape.heads * shape.width for shape in self.shapes) * self.kind.itemsize

    def used(self) -> set[int]:
        """The blocks in use."""
        return {block for handle in self.handles for block in handle.blocks}

    def expect(self, handle: BlockHandle) -> None:
        """Count with the room of a handle from now on. May be called by any thread."""
        self._handles[id(handle)] = handle

    def allot(self, needs: Sequence[tuple[BlockHandle, int]]) -> None:
        """Give every handle blocks for so many cells. A block is in use as soon as a handle names it.

        Raises MemoryError. After that, as after an interrupt, every handle has the blocks that it had.
        """
        self._settle()
        lacking = [(handle, blocks_for(cells) - len(handle.blocks)) for handle, cells in needs]
        if all(count <= 0 for _, count in lacking):
            return
        for handle, _ in lacking:
            self.expect(handle)
        taken = self.used() | {SCRATCH}
        total = sum(max(0, count) for _, count in lacking)
        free = iter([block for block in range(max(taken) + 1 + total) if block not in taken])
        before = [handle.blocks for handle, _ in lacking]
        try:
            for handle, count in lacking:
                handle.blocks = handle.blocks + [next(free) for _ in range(max(0, count))]
            self._fit()
        except BaseException:
            for (handle, _), blocks in zip(lacking, before, strict=True):
                handle.blocks = blocks
            raise

    def share(self, handle: BlockHandle, other: BlockHandle, count: int) -> int:
        """Let a handle without blocks begin with the first `count` cells of another one. Returns how many it got."""
        blocks = other.blocks
        if len(blocks) < blocks_for(count):  # it was closed by another thread
            return 0
        self.expect(handle)
        handle.blocks = blocks[: count // CELLS]
        if count % CELLS:
            self.allot([(handle, count)])
            self.copy(blocks[count // CELLS], handle.blocks[-1:])
        handle.length = count
        return count

    def _fit(self) -> None:
        """Twice what is needed, so that growing stays rare; halve what is mostly empty, down to `kept` blocks.

        It grows as soon as room is asked for: what is written by then is copied, and later that would be more. Memory of which at
        least half will be written is in huge pages.
        """
        handles = self.handles
        high = max((max(handle.blocks, default=SCRATCH) for handle in handles), default=SCRATCH) + 1
        wanted = sum(max(0, blocks_for(handle.room) - len(handle.blocks)) for handle in handles)
        needed = max(high, 1 + len(self.used()) + wanted)
        if needed > self.capacity:
            self._resize(2 * needed, high, huge=True)
        elif self.capacity > max(self.kept, 4 * needed):
            self._resize(max(self.kept, 2 * needed), high, huge=2 * needed >= self.kept)
        elif 2 * needed >= self.capacity and not self.huge:
            self._resize(self.capacity, high, huge=True)

    def _resize(self, blocks: int, used: int, huge: bool) -> None:
        """New memory, with what the first `used` blocks hold, as far as they had memory.

        Raises MemoryError; nothing has changed then.
        """
        self._settle()
        used, names = min(used, self.capacity), self._names
        made = [
            cell_memory((len(of_size), blocks, heads, CELLS, width), self.kind, huge)
            for of_size, (heads, width) in zip(names, self._sizes, strict=True)
        ]
        for new, old in zip(made, self._memory, strict=False):  # at first there is no old one
            new[:, :used] = old[:, :used]
        self._replaced = (
            self._memory
        )  # which the graph reads until all of the new one is attached, whatever strikes meanwhile
        self._memory = made
        self.huge = huge
        self._attach()

    @property
    def _names(self) -> list[list[str]]:
        """The inputs that have memory of each size."""
        return [[each.name for each in self.shapes if (each.heads, each.width) == size] for size in self._sizes]

    def reach(self, attach: Attach) -> None:
        """Let another graph read and write the same memory."""
        self._graphs.append(attach)
        self._attach()

    def _attach(self) -> None:
        for names, memory in zip(self._names, self._memory, strict=True):
            for name, part in zip(names, memory, strict=True):
                for attach in self._graphs:
                    attach(name, part)
        self._replaced = []

    def _settle(self) -> None:
        """Attach what an interrupt left: the graph would read memory of which a part is the old one."""
        if self._replaced:
            self._attach()

    def move(self, handle: BlockHandle, cells: Sequence[int], begin: int) -> None:
        """Copy cells of a request to those from `begin` on, in all layers.

        Raises MemoryError; nothing has moved then, so that it may be repeated.
        """
        blocks = np.array(handle.blocks)
        source, target = np.array(cells), np.arange(begin, begin + len(cells))
        held = [memory[:, blocks[source // CELLS], :, source % CELLS] for memory in self._memory]
        for memory, kept in zip(self._memory, held, strict=True):
            memory[:, blocks[target // CELLS], :, target % CELLS] = kept

    def copy(self, source: int, targets: Sequence[int]) -> None:
        """Copy a block to others, in all layers."""
        for memory in self._memory:
            memory[:, list(targets)] = memory[:, source, None]

    def entering(self, texts: Sequence[BlockHandle]) -> AbstractContextManager[None]:
        """Passes that enter rows into these texts. If they fail, nothing of them stays: not in the texts, not in their cells."""
        return _Entering(texts, self)

    def zero(self, handle: BlockHandle, begin: int) -> None:
        """Forget what a request has in its cells from `begin` on, and rows that only fill passes: a masked NaN would still
        poison an attention sum."""
        blocks = np.array(handle.blocks, dtype=np.int64)
        cells = np.arange(begin, max(begin, len(blocks) * CELLS))
        for memory in self._memory:
            memory[:, blocks[cells // CELLS], :, cells % CELLS] = 0
            memory[:, SCRATCH] = 0

    def drop_unused(self) -> None:
        """Give memory back if no request holds a block or will soon, and it is more than `kept` blocks."""
        if self.capacity > self.kept and not any(handle.blocks or handle.room for handle in self.handles):
            self._resize(self.kept, 0, huge=False)


def blocks_for(cells: int) -> int:
    return -(-cells // CELLS)


class _Entering:
    """What `entering` returns; a class, for a generator would take three times as long."""

    __slots__ = ("marks", "pool", "texts")

    def __init__(self, texts: Sequence[BlockHandle], pool: BlockPool) -> None:
        self.texts, self.pool = texts, pool

    def __enter__(self) -> None:
        self.marks = [text.mark() for text in self.texts]

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            for text, mark in zip(self.texts, self.marks, strict=True):
                text.back(mark)
                self.pool.zero(text, text.read)
