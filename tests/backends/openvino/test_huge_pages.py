"""Memory moves to huge pages, with what is in it; and nothing moves where it cannot, or must not."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("openvino")

from draftgraph.backends.base import Feed
from draftgraph.backends.openvino import huge_pages, load
from draftgraph.backends.openvino.huge_pages import HugePages
from models import tiny_lm

SIZE = huge_pages._huge_size()
COUNT = 6
PASSES = 4
"""Until all has moved: two that pack, and two."""
pytestmark = pytest.mark.skipif(not SIZE, reason="there are no huge pages here")


def made(count: int = COUNT, apart: int = mmap.MADV_DONTFORK) -> tuple[mmap.mmap, int]:
    """Memory in small pages that holds so many huge ones, and the address of the first.

    apart  advice that others have not been given, so that Linux does not join it with memory beside it.
    """
    memory = mmap.mmap(-1, (count + 1) * SIZE - mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(apart)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return memory, -(-begin // SIZE) * SIZE


def in_huge_pages(start: int) -> int:
    """KiB of the mapping that holds this address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if line[0] in "0123456789abcdef" and "-" in line.split()[0]:
            begin, _, end = line.split()[0].partition("-")
            inside = int(begin, 16) <= start < int(end, 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1])
    return 0


@pytest.fixture
def possible() -> None:
    """Whether this system moves memory when it is asked to, and not before."""
    memory, start = made(1)
    if "[always]" in (huge_pages._SETTINGS / "enabled").read_text():
        pytest.skip("all memory is in huge pages from the beginning")
    memory.write(b"\1" * len(memory))
    if ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(SIZE), huge_pages._COLLAPSE):
        pytest.skip("this system does not move memory")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Spans that stand for all memory of this process: else it depends on the tests before what else came since."""
    spans: list[tuple[int, int]] = []
    monkeypatch.setattr(huge_pages, "_private", lambda: iter(spans))
    return spans


def test_memory_of_this_process_is_found() -> None:
    memory, start = made()
    assert any(begin <= start and start + COUNT * SIZE <= end for begin, end in huge_pages._private())
    assert huge_pages._in_memory(SIZE)[start] == 0.0
    memory.write(b"\1" * len(memory))
    assert huge_pages._in_memory(SIZE)[start] == 1.0


@pytest.mark.usefixtures("possible")
def test_what_came_since_moves_first_and_stays_what_it_is(alone: list[tuple[int, int]]) -> None:
    old, at = made(apart=mmap.MADV_DONTDUMP)
    new, start = made()
    alone += [(at, at + COUNT * SIZE), (start, start + COUNT * SIZE)]
    content = np.random.default_rng(0).bytes(len(old))
    old.write(content)
    pages = HugePages(COUNT * SIZE)
    new.write(content)
    for _ in range(PASSES):
        pages.move()
    assert in_huge_pages(start) == COUNT * SIZE // 1024
    assert in_huge_pages(at) == 0
    assert new[:] == content


@pytest.mark.usefixtures("possible")
def test_all_at_once_and_no_more_than_there_are_weights(alone: list[tuple[int, int]]) -> None:
    pages = HugePages(2 * SIZE)
    memory, start = made()
    alone.append((start, start + COUNT * SIZE))
    memory.write(b"\1" * len(memory))
    pages.move_all()
    assert in_huge_pages(start) == 2 * SIZE // 1024
    pages.move_all()
    pages.move()
    assert in_huge_pages(start) == 2 * SIZE // 1024


@pytest.mark.usefixtures("possible")
def test_memory_that_is_not_used_is_not_filled() -> None:
    pages = HugePages(COUNT * SIZE)
    memory, start = made()
    memory[:: mmap.PAGESIZE * 2] = b"\1" * len(memory[:: mmap.PAGESIZE * 2])
    pages.move_all()
    assert in_huge_pages(start) == 0


@pytest.mark.usefixtures("possible")
@torch.inference_mode()
def test_passes_of_a_model_move_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    moved, moving = [], huge_pages._moving

    def counted(before: dict[int, float], weights: int, size: int) -> Iterator[None]:
        for step in moving(before, weights, size):
            moved.append(weights)
            yield step

    monkeypatch.setattr(huge_pages, "_moving", counted)
    wide = tiny_lm(vocab=SIZE // 64)  # its head alone has two huge pages
    model = load.from_loaded(wide, None, None)[0]  # which makes passes
    assert moved
    assert moved[0] >= 2 * SIZE
    text = model.open(3)
    rows = model.forward([Feed(text, [1, 2], [3], [-1])])[0].logits
    model.close(text)
    torch.testing.assert_close(rows, wide(torch.tensor([[1, 2, 3]])).logits[0, 1:], atol=1e-4, rtol=1e-4)
    left = iter([None] * 99)
    monkeypatch.setattr(model._compiled._pages, "_left", left)
    model.settle()
    assert next(left, "nothing") == "nothing"


@pytest.fixture(params=["told never to", "no file that says it", "no maps", "an older kernel"])
def impossible(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "told never to":
        (tmp_path / "enabled").write_text("always madvise [never]\n", encoding="utf-8")
        (tmp_path / "hpage_pmd_size").write_text(f"{SIZE}\n", encoding="utf-8")
        monkeypatch.setattr(huge_pages, "_SETTINGS", tmp_path)
    elif request.param == "an older kernel":
        monkeypatch.setattr(huge_pages, "_COLLAPSE", 9999)
    else:
        monkeypatch.setattr(huge_pages, "_PAGES" if request.param == "no maps" else "_SETTINGS", tmp_path / "absent")
    return str(request.param)


@pytest.mark.usefixtures("impossible")
def test_where_it_cannot_be_nothing_moves() -> None:
    pages = HugePages(COUNT * SIZE)
    memory, start = made()
    memory.write(b"\1" * len(memory))
    pages.move_all()
    pages.move()
    assert in_huge_pages(start) == 0
