"""Memory of a graph's file, given back while the graph is compiled.

OpenVINO maps the file and packs every weight into memory of its own. The pages that it has read stay, so that all weights are
there twice. They are pages of a file that nobody writes to: whoever reads one again gets it from the system's cache of files.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAPS = Path("/proc/self/maps")
"""The memory of this process, as Linux tells it. Elsewhere nothing is given back."""
_PAUSE_SECONDS = 0.05


@contextmanager
def given_back(file: Path) -> Iterator[None]:
    """For as long as a file is read through memory, let go of its pages again and again."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_PAUSE_SECONDS):
            let_go(file)

    watcher = threading.Thread(target=watch, name="draftgraph pages", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        let_go(file)


def let_go(file: Path) -> int:
    """Give back the pages of all mappings of a file that nothing can be written through. Returns the bytes of the mappings."""
    if not hasattr(mmap, "MADV_DONTNEED") or not _MAPS.exists():
        return 0
    spans = list(_mappings(file))
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for begin, end in spans:
        advise(begin, end - begin, mmap.MADV_DONTNEED)  # if it fails, the pages stay
    return sum(end - begin for begin, end in spans)


def _mappings(file: Path) -> Iterator[tuple[int, int]]:
    """Begin and end of every mapping. A page that was written to in a private mapping would lose what was written."""
    path = str(file.resolve())
    for line in _MAPS.read_text(errors="replace").splitlines():
        words = line.split(maxsplit=5)
        if len(words) == 6 and words[5] == path and "w" not in words[1]:
            begin, _, end = words[0].partition("-")
            yield int(begin, 16), int(end, 16)
