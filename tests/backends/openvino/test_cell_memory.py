"""Memory for keys and values is taken where it is written, and no sooner."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from draftgraph.backends.openvino import pool
from draftgraph.backends.openvino.cell_memory import cell_memory
from draftgraph.backends.openvino.pool import CELLS, BlockPool, Shape
from draftgraph.backends.openvino.text import BlockHandle

KIND = np.dtype(np.float32)
SHAPES = [Shape(f"{what}_cache.{layer}", heads=3, width=64) for layer in range(30) for what in ("key", "value")]
MIB = 1 << 20


def nowhere(name: str, memory: npt.NDArray[np.generic]) -> None:
    """A graph that reads nothing."""


def anonymous() -> int:
    """Bytes of memory of its own that this process holds."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages of every memory that is made, in order."""
    made: list[str] = []

    def noted(shape: tuple[int, ...], kind: np.dtype[np.generic], huge: bool) -> npt.NDArray[np.generic]:
        made.append("huge" if huge else "small")
        return cell_memory(shape, kind, huge)

    monkeypatch.setattr(pool, "cell_memory", noted)
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says how much is there")
def test_the_first_cells_of_all_layers_do_not_bring_the_others_into_memory() -> None:
    held, handle, before = BlockPool(SHAPES, KIND, nowhere), BlockHandle(4), anonymous()
    assert held.capacity * CELLS * held.cell_bytes > 100 * MIB
    held.allot([(handle, 4)])
    for memory in held._memory:
        memory[:, handle.blocks, :, :4] = 1
    assert 0 < anonymous() - before < 20 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says whose memory is whose")
def test_processes_that_are_forked_do_not_share_it() -> None:
    memory = cell_memory((2, 2, 1, 4, 8), KIND, huge=False)
    place = memory.ctypes.data
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        span, access = line.split()[:2]
        begin, _, end = span.partition("-")
        if int(begin, 16) <= place < int(end, 16):
            assert access == "rw-p"
            return
    pytest.fail("the memory is nowhere")


@pytest.mark.parametrize("huge", [False, True])
def test_memory_is_zeros_that_may_be_written(huge: bool) -> None:
    memory = cell_memory((2, 3, 4, 5, 7), KIND, huge)
    assert (memory.shape, memory.dtype) == ((2, 3, 4, 5, 7), KIND)
    assert not memory.any()
    memory[1, 2] = 3
    assert (memory[1, 2] == 3).all()
    assert not memory[0].any()
    assert memory.ctypes.data % 4096 == 0


def test_systems_that_know_no_huge_pages_give_memory_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MADV_HUGEPAGE", "MADV_NOHUGEPAGE"):
        monkeypatch.setattr(mmap, name, 12345, raising=False)  # which no system knows
        assert not cell_memory((1, 1, 1, 2, 2), KIND, name == "MADV_HUGEPAGE").any()
        monkeypatch.delattr(mmap, name)
        assert not cell_memory((1, 1, 1, 2, 2), KIND, name == "MADV_HUGEPAGE").any()


def test_short_texts_get_small_pages_and_long_ones_move_to_huge_pages(sizes: list[str]) -> None:
    held, short = BlockPool(SHAPES, KIND, nowhere), BlockHandle(CELLS)
    held.expect(short)
    held.allot([(short, CELLS)])
    assert sizes == ["small"]
    held._memory[0][:, short.blocks] = 5
    long = BlockHandle(held.kept * CELLS // 2)
    held.expect(long)
    for cells in (CELLS, 2 * CELLS):  # once
        held.allot([(long, cells)])
        assert (sizes, held.capacity) == (["small", "huge"], held.kept)
    assert (held._memory[0][:, short.blocks] == 5).all()
    assert not held._memory[0][:, long.blocks].any()


def test_memory_that_has_grown_is_in_huge_pages_until_it_is_given_back(sizes: list[str]) -> None:
    held, handle = BlockPool(SHAPES, KIND, nowhere), BlockHandle(0)
    held.allot([(handle, (held.kept + 1) * CELLS)])
    assert held.capacity > held.kept
    assert sizes == ["small", "huge"]
    handle.clear()
    held.drop_unused()
    assert (held.capacity, sizes[2:]) == (held.kept, ["small"])


@pytest.mark.parametrize(("blocks", "pages"), [(1, "small"), (60, "huge")])
def test_memory_that_shrinks_is_in_the_pages_of_what_is_left(blocks: int, pages: str, sizes: list[str]) -> None:
    held, long, other = BlockPool(SHAPES, KIND, nowhere), BlockHandle(0), BlockHandle(0)
    held.allot([(other, blocks * CELLS), (long, 4 * held.kept * CELLS)])
    long.clear()
    held.allot([(other, blocks * CELLS + 1)])
    assert (held.capacity, sizes) == (max(held.kept, 2 * (blocks + 2)), ["small", "huge", pages])


@pytest.mark.parametrize(
    "blocks", [1 << 34, 1 << 60], ids=["more than there are addresses", "more than a number holds"]
)
def test_too_much_memory_is_refused_as_such(blocks: int) -> None:
    with pytest.raises(MemoryError, match="MiB of keys and values"):
        cell_memory((2, blocks, 3, CELLS, 64), KIND, huge=True)


def test_a_pool_that_gets_no_memory_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    held, handle, other = BlockPool(SHAPES, KIND, nowhere), BlockHandle(0), BlockHandle(0)
    held.allot([(handle, 2 * CELLS)])
    held._memory[0][:, handle.blocks] = 5
    with monkeypatch.context() as patch:
        patch.setattr(pool, "cell_memory", lambda *arguments: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            held.allot([(handle, 3 * CELLS), (other, 4 * held.kept * CELLS)])
    assert (handle.blocks, other.blocks, held.capacity, held.huge) == ([1, 2], [], held.kept, False)
    assert (held._memory[0][:, handle.blocks] == 5).all()
    held.allot([(other, CELLS)])
    assert other.blocks == [3]


@pytest.mark.parametrize("number", [0, 1, len(SHAPES) - 1, len(SHAPES), 2 * len(SHAPES) - 1])
def test_an_interrupt_while_memory_is_replaced_leaves_one_that_is_there(number: int) -> None:
    """The graph may have some layers in the new memory and some in the old one: both stay until the next pass has settled it."""
    attached: dict[str, npt.NDArray[np.generic]] = {}
    calls: list[str] = []

    def attach(name: str, memory: npt.NDArray[np.generic]) -> None:
        calls.append(name)
        if len(calls) == len(SHAPES) + 1 + number:
            raise KeyboardInterrupt
        attached[name] = memory

    def alive(memories: list[npt.NDArray[np.generic]]) -> bool:
        return all(any(np.shares_memory(part, memory) for memory in memories) for part in attached.values())

    held, handle, other = BlockPool(SHAPES, KIND, attach), BlockHandle(0), BlockHandle(0)
    held.allot([(handle, CELLS)])
    before = handle.blocks

    def grow_twice() -> None:
        for blocks in (2, 5):
            held.allot([(other, blocks * held.capacity * CELLS)])

    with pytest.raises(KeyboardInterrupt):
        grow_twice()
    assert alive([*held._memory, *held._replaced])
    assert max([*handle.blocks, *other.blocks]) < held.capacity
    assert handle.blocks == before
    held.allot([(handle, CELLS)])  # what every pass begins with
    assert alive(held._memory)
    assert not held._replaced
