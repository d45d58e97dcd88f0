"""Pages of a file that were read are given back, and read again as they were."""

from __future__ import annotations

import gc
import mmap
import sys
import threading
import weakref
from collections.abc import Collection
from pathlib import Path
from weakref import WeakValueDictionary

import pytest

from draftgraph.backends.openvino import load, pages
from draftgraph.backends.openvino.pages import given_back, let_go, mappings
from held import until
from models import tiny_lm

LENGTH = 1 << 22


def resident(path: Path) -> int:
    """KiB of the file that this process holds."""
    found, lines = 0, Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    inside = False
    for line in lines:
        if line[0] in "0123456789abcdef" and "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")
def test_what_is_given_back_is_read_again_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "weights with a space.bin"
    content = bytes(range(256)) * (LENGTH // 256)
    path.write_bytes(content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), LENGTH, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
        spans = mappings(path)
        assert [end - begin for begin, end in spans] == [LENGTH]
        with given_back(spans, mapped):
            assert mapped[:] == content
        assert resident(path) == 0
        assert mapped[:] == content
        assert resident(path) > 0
        let_go(spans)
        assert resident(path) == 0
        assert mapped[LENGTH - 3 :] == content[-3:]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")
def test_what_was_written_to_a_mapping_stays(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(LENGTH))
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    with path.open("rb") as file, mmap.mmap(file.fileno(), LENGTH, mmap.MAP_PRIVATE, writable) as mapped:
        mapped[5] = 7
        assert mappings(path) == frozenset()
        assert mapped[5] == 7


def test_a_file_that_nobody_maps(tmp_path: Path) -> None:
    with given_back(mappings(tmp_path / "absent.bin"), None):
        pass


class Holder:
    """What keeps a mapping."""


def test_after_an_interrupt_nobody_watches_for_ever_and_until_then_the_mapping_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It strikes in `start`, which waits for the new thread, while that one gives pages back."""
    start, inside, go_on = threading.Thread.start, threading.Event(), threading.Event()

    def struck(self: threading.Thread) -> None:
        start(self)
        assert inside.wait(60)
        raise KeyboardInterrupt

    def slow(spans: Collection[pages.Span]) -> None:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(60)

    def interrupted() -> weakref.ref[Holder]:
        holder = Holder()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", struck)
            patch.setattr(threading.Thread, "join", interrupt)
            with pytest.raises(KeyboardInterrupt), given_back(frozenset(), holder):
                pass
        return weakref.ref(holder)

    def interrupt(self: threading.Thread, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pages, "let_go", slow)
    held = interrupted()
    gc.collect()
    assert held() is not None
    go_on.set()
    until(lambda: all(thread.name != "draftgraph pages" for thread in threading.enumerate()))
    gc.collect()
    assert held() is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")
def test_a_start_touches_no_mapping_of_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may go at any moment, and something else be where it was; its own is there all the time."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(tmp_path / "cache"))
    tiny_lm(vocab=256).save_pretrained(tmp_path / "model")
    other = load.from_folder(tmp_path / "model", None, None)
    [weights] = (tmp_path / "cache").rglob("*.bin")
    theirs = pages.mappings(weights)
    assert len(theirs) == 1
    touched: list[frozenset[pages.Span]] = []

    def watched(spans: frozenset[pages.Span]) -> None:
        assert spans <= pages.mappings(weights)
        touched.append(spans)

    monkeypatch.setattr(pages, "let_go", watched)
    monkeypatch.setattr(load, "_RUNNING", WeakValueDictionary())
    assert load.from_folder(tmp_path / "model", None, None) is not other
    assert touched
    assert not any(spans & theirs for spans in touched)
    assert all(len(spans) == 1 for spans in touched)
