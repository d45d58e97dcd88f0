"""The packed weights of a graph move to huge pages, a few with every pass.

A pass reads every weight once. In pages of 4 KiB it looks up 512 addresses where a page of 2 MiB takes one. Systems rarely choose
huge pages by themselves, and OpenVINO does not ask for them. So whoever runs a graph asks Linux.

Nobody tells where the weights lie. The memory that came since before the graph was compiled goes first, then other memory of this
process, until as much has moved as there are weights. All at once would take up to half a second of a start.
"""

from __future__ import annotations

import ctypes
import errno
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice, repeat
from mmap import PAGESIZE
from pathlib import Path
from typing import BinaryIO

import numpy as np

from draftgraph.backends.openvino.pages import MAPS, Span

_PACKING, _MOVED = 2, 8
"""First passes, which still pack weights; a start runs more, so that it looks before other models are loaded. Huge pages that are
moved after each later pass, which takes 4 ms, or 20 ms where the memory of a virtual machine is new to its host."""
_SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
_PAGES = Path("/proc/self/pagemap")
"""Eight bytes for every page of this process; the highest bit says whether the page is in memory."""
_IN_MEMORY = np.uint64(1 << 63)
_COLLAPSE = 25
"""Linux's MADV_COLLAPSE, since 6.1. It moves memory and changes nothing in it, even while others write to it."""
_FULL = 0.9
"""A huge page is made where so much of it is in memory already."""


class HugePages:
    """Huge pages for weights that are packed from now on. Nothing moves on systems that cannot do it, or were told never to."""

    def __init__(self, weights: int) -> None:
        """weights  bytes."""
        size, waiting = _huge_size(), repeat(None, _PACKING * _MOVED)
        self._left: Iterator[None] = (
            chain(waiting, _moving(_in_memory(size), weights, size)) if 0 < size <= weights else iter(())
        )

    def move(self) -> None:
        """To be called after every pass."""
        deque(islice(self._left, _MOVED), maxlen=0)

    def move_all(self) -> None:
        """To be called after the first passes."""
        deque(self._left, maxlen=0)


def _moving(before: dict[int, float], weights: int, size: int) -> Iterator[None]:
    """Every step makes one huge page, of `size` bytes. The first step looks where they can be.

    before  what was in memory before the weights were packed.
    """
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    came = {start: share - before.get(start, 0.0) for start, share in _in_memory(size).items() if share >= _FULL}
    for start in sorted(came, key=came.__getitem__, reverse=True)[: weights // size]:
        if advise(start, size, _COLLAPSE) and ctypes.get_errno() != errno.EAGAIN:
            return  # an older kernel, or no memory in one piece
        yield


def _huge_size() -> int:
    """Bytes of a huge page; 0 where there are none."""
    try:
        allowed = "[never]" not in (_SETTINGS / "enabled").read_text()
        return int((_SETTINGS / "hpage_pmd_size").read_text()) if allowed else 0
    except (OSError, ValueError):
        return 0


def _in_memory(size: int) -> dict[int, float]:
    """By the address of every possible huge page: the part of it that is in memory. Empty where the system does not tell."""
    try:
        with _PAGES.open("rb", buffering=0) as file:
            return {start: share for span in _private() for start, share in _shares(file, span, size)}
    except (OSError, ValueError):
        return {}


def _private() -> Iterator[Span]:
    """The memory of this process that can be written and is no file's."""
    for line in MAPS.read_text(errors="replace").splitlines():
        addresses, rights, _, _, inode, *_ = line.split(maxsplit=5)
        if inode == "0" and rights.startswith("rw"):
            begin, _, end = addresses.partition("-")
            yield int(begin, 16), int(end, 16)


def _shares(file: BinaryIO, span: Span, size: int) -> Iterator[tuple[int, float]]:
    """The possible huge pages of a span, and the part of each that is in memory."""
    start, end = -(-span[0] // size) * size, span[1] // size * size
    if start < end:
        file.seek(start // PAGESIZE * 8)
        known = np.frombuffer(file.read((end - start) // PAGESIZE * 8), np.uint64).reshape(-1, size // PAGESIZE)
        shares = np.count_nonzero(known & _IN_MEMORY, axis=1) * PAGESIZE / size
        yield from zip(range(start, end, size), shares.tolist(), strict=True)
