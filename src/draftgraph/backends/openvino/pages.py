"""Memory that a start needs for a while only: given back while a graph is compiled, and afterwards.

OpenVINO maps the file and packs every weight into memory of its own. The pages that it has read stay, so that all weights are
there twice. They are pages of a file that nobody writes to: whoever reads one again gets it from the system's cache of files.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

MAPS = Path("/proc/self/maps")
"""The memory of this process, as Linux tells it. Elsewhere nothing is given back."""
_PAUSE_SECONDS = 0.05
Span = tuple[int, int]
"""Begin and end of a mapping."""


@contextmanager
def given_back(spans: Collection[Span], holder: object) -> Iterator[None]:
    """For as long as files are read through memory, let go of their pages again and again.

    holder  keeps the mappings `spans`. Where one went, its addresses would soon be other memory, which would be zeroed. So
            whoever gives pages back keeps it as well, for as long as that may be after an interrupt.
    """
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(spans, holder, done), name="draftgraph pages", daemon=True)
    try:
        watcher.start()
        yield
    finally:
        done.set()
        if watcher.is_alive():
            watcher.join()
        let_go(spans)


def _watch(spans: Collection[Span], holder: object, done: threading.Event) -> None:
    while not done.wait(_PAUSE_SECONDS):
        let_go(spans)


def let_go(spans: Collection[Span]) -> None:
    """Give back the pages of mappings that nothing can be written through."""
    if spans and hasattr(mmap, "MADV_DONTNEED"):
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for begin, end in spans:
            advise(begin, end - begin, mmap.MADV_DONTNEED)  # if it fails, the pages stay


def trim() -> None:
    """Give back what the allocator holds of memory that was freed: tens of MiB once a graph is compiled. With glibc only."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def mappings(file: Path) -> frozenset[Span]:
    """All mappings of a file now. A page that was written to in a private mapping would lose what was written: none of those."""
    if not MAPS.exists():
        return frozenset()
    path, spans = str(file.resolve()), set()
    for line in MAPS.read_text(errors="replace").splitlines():
        words = line.split(maxsplit=5)
        if len(words) == 6 and words[5] == path and "w" not in words[1]:
            begin, _, end = words[0].partition("-")
            spans.add((int(begin, 16), int(end, 16)))
    return frozenset(spans)
