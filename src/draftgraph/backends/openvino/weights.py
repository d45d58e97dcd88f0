"""The weight files of a model, told apart without loading them into a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from draftgraph.backends.gguf import is_gguf
from draftgraph.backends.hub import kept
from draftgraph.errors import ModelError
from draftgraph.files import BrokenFileError, read_text

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_LEAST_PERIOD, _SAMPLES = 4096, 64
"""Tensors up to this many bytes are read whole, of larger ones so many places."""
_PLACE = 16
"""Bytes that are read of a place."""
_HEAD, _PLACES = 1 << 20, 4096
"""Bytes at the beginning of a GGUF file that are read whole, and places that are read of the rest."""


def weight_files(name: str) -> list[Path]:
    """The safetensors files of a folder or of a hub name that was downloaded, or the GGUF file itself; none where it has none.

    Raises ModelError for an index that cannot be read, or that names files which are not there.
    """
    if is_gguf(name):
        return [Path(name)]
    index = kept(name, INDEX)
    if index is None:
        single = kept(name, SINGLE)
        return [] if single is None else [single]
    try:
        named = sorted({str(file) for file in json.loads(read_text(index))["weight_map"].values()})
    except (OSError, BrokenFileError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"cannot read {str(index)!r}: {error}; take the model's files from their source again"
        ) from None
    found = [kept(name, file) for file in named]
    if None in found:
        raise ModelError(f"{str(index)!r} names {named[found.index(None)]!r}, which is not there")
    return [file for file in found if file is not None]


def fingerprint(files: Sequence[Path], *texts: str) -> str:
    """A hash of headers and of places all over the tensors, and of `texts`. Takes milliseconds.

    Raises OSError or ValueError for files that are neither safetensors nor GGUF files.
    """
    known = hashlib.sha256("\n".join(texts).encode())
    for file in files:
        if is_gguf(file.name):
            known.update(_places(file))
            continue
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            head = opened.read(size) if size <= file.stat().st_size else b""
            known.update(head)
            for start, end in _spans(head):
                period = max(_PLACE, (end - start) // _SAMPLES // _PLACE * _PLACE)
                few = range(start, end, period) if end - start > _LEAST_PERIOD else (start,)
                for place in few:
                    opened.seek(8 + size + place)
                    known.update(opened.read(min(_PLACE if len(few) > 1 else _LEAST_PERIOD, end - place)))
    return known.hexdigest()


def _places(file: Path) -> bytes:
    """The size of a GGUF file, its beginning, and places all over the rest."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        found = [str(size).encode(), opened.read(_HEAD)]
        for place in range(_HEAD, size, max(_PLACE, (size - _HEAD) // _PLACES)):
            opened.seek(place)
            found.append(opened.read(_PLACE))
    return b"".join(found)


def _spans(head: bytes) -> list[tuple[int, int]]:
    tensors: Any = json.loads(head)
    return sorted(tuple(each["data_offsets"]) for name, each in tensors.items() if name != "__metadata__")


def stamps(files: Sequence[Path]) -> list[list[int]]:
    """Size and time of change of every file: as long as they stay, nobody has written to the files."""
    return [[found.st_size, found.st_mtime_ns] for found in (file.stat() for file in files)]


def digest(files: Sequence[Path]) -> str:
    """A hash of all bytes."""
    known = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            known.update(hashlib.file_digest(opened, "sha256").digest())
    return known.hexdigest()
