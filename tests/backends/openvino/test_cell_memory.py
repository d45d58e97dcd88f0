"""Memory for keys and values is taken where it is written, and no sooner."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from draftgraph.backends.openvino.cell_memory import CellMemory
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
def advice(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the system is advised, in order."""
    given: list[str] = []
    monkeypatch.setattr(CellMemory, "_advise", lambda self, name: given.append(name))
    return given


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says how much is there")
def test_the_first_cells_of_all_layers_do_not_bring_the_others_into_memory() -> None:
    pool, handle, before = BlockPool(SHAPES, KIND, nowhere), BlockHandle(4), anonymous()
    assert pool.capacity * CELLS * pool.cell_bytes > 100 * MIB
    pool.allot([(handle, 4)])
    for memory in pool._memory:
        memory[:, handle.blocks, :, :4] = 1
    assert 0 < anonymous() - before < 20 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says whose memory is whose")
def test_processes_that_are_forked_do_not_share_it() -> None:
    memory = CellMemory((2, 2, 1, 4, 8), KIND)
    place = memory.array.ctypes.data
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        span, access = line.split()[:2]
        begin, _, end = span.partition("-")
        if int(begin, 16) <= place < int(end, 16):
            assert access == "rw-p"
            return
    pytest.fail("the memory is nowhere")


def test_memory_is_zeros_that_may_be_written() -> None:
    memory = CellMemory((2, 3, 4, 5, 7), KIND)
    assert (memory.array.shape, memory.array.dtype) == ((2, 3, 4, 5, 7), KIND)
    assert not memory.array.any()
    memory.array[1, 2] = 3
    memory.widen()
    assert (memory.array[1, 2] == 3).all()
    assert not memory.array[0].any()
    assert memory.array.ctypes.data % 4096 == 0


def test_short_texts_get_small_pages_and_long_ones_huge_pages(advice: list[str]) -> None:
    pool, short = BlockPool(SHAPES, KIND, nowhere), BlockHandle(CELLS)
    pool.expect(short)
    pool.allot([(short, CELLS)])
    assert advice == ["MADV_NOHUGEPAGE"]
    long = BlockHandle(pool.kept * CELLS // 2)
    pool.expect(long)
    pool.allot([(long, CELLS)])
    assert advice == ["MADV_NOHUGEPAGE", "MADV_HUGEPAGE"]


def test_memory_that_has_grown_gets_huge_pages_before_it_is_written(advice: list[str]) -> None:
    pool, handle = BlockPool(SHAPES, KIND, nowhere), BlockHandle(0)
    pool.allot([(handle, (pool.kept + 1) * CELLS)])
    assert pool.capacity > pool.kept
    assert advice == ["MADV_NOHUGEPAGE"] * 2 + ["MADV_HUGEPAGE"]
    handle.clear()
    pool.drop_unused()
    assert pool.capacity == pool.kept
    assert advice[3:] == ["MADV_NOHUGEPAGE"]
