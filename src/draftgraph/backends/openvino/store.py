"""Converted graphs, kept in the user's cache folder: one folder per model, precision and versions.

A folder is written beside its place and then moved there, so that nobody sees half of it. Of two processes that convert the
same model, the first one puts its folder there, and the other one leaves it: somebody may be reading it. What is broken or of
somebody else is converted again. A cache that cannot be written is no error: the model is then converted in every process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from draftgraph.backends.openvino.runtime import runtime
from draftgraph.files import BrokenFileError, read_text, write_whole
from draftgraph.strictjson import build, parse, seen

VERSION = 3
"""To be raised when models are converted otherwise, when something else is kept, or when more configurations are refused: those
of kept models are not looked at again."""
ENTRY, GRAPH, WEIGHTS = "entry.json", "graph.xml", "graph.bin"
_CHUNK = 1 << 20
_MOST_BYTES = 1 << 24
"""A larger description is none."""
_ATTEMPTS = 8
"""Times that a folder is moved to a place where others may put theirs at the same moment."""


@dataclass(frozen=True)
class Entry:
    """What is kept of one converted model, beside its graph.

    made_with   versions, precision and whatever else the graph depends on.
    weights     a hash of all weights; stamps  sizes and times of the files that were found to hold them.
    refused     why the model cannot run here; empty if it can. Then there is a graph.
    class_name, vocab_size, window  of the model.
    checked     what the probe found.
    sample      logits that a start compares its own with.
    files       size and checksum of the graph's files.
    """

    made_with: dict[str, str]
    weights: str
    stamps: Sequence[Sequence[Sequence[int]]]
    class_name: str
    vocab_size: int
    refused: str = ""
    window: int | None = None
    checked: str = ""
    sample: Sequence[Sequence[float]] = ()
    files: dict[str, Sequence[int]] = field(default_factory=dict)


def place_of(folder: Path | None, fingerprint: str, made_with: dict[str, str]) -> Path | None:
    """Where a model is kept, or would be. folder  the user's cache; None if there is none."""
    if folder is None:
        return None
    known = json.dumps([fingerprint, dict(made_with)], sort_keys=True)
    return folder / "openvino" / hashlib.sha256(known.encode()).hexdigest()[:24]


def there(place: Path | None) -> int | None:
    """What is at a place now, as a number that differs from that of any other folder; None if nothing is."""
    try:
        return None if place is None else place.stat().st_ino
    except OSError:
        return None


def read_entry(place: Path, made_with: dict[str, str]) -> Entry:
    """What is kept there, with its files looked through.

    Raises FileNotFoundError if there is nothing, OSError or BrokenFileError if it cannot be used.
    """
    held = parse(read_text(place / ENTRY, _MOST_BYTES))
    if not isinstance(held, dict) or held.get("version") != VERSION:
        raise BrokenFileError("it is of another version")
    entry: Entry = build(Entry, {name: value for name, value in held.items() if name != "version"}, "the entry")
    if dict(entry.made_with) != dict(made_with):
        raise BrokenFileError(f"it was made with {seen(dict(entry.made_with))}")
    if not entry.refused:
        for name in (GRAPH, WEIGHTS):
            if not (place / name).is_file() or list(entry.files.get(name, ())) != list(_checked(place / name)):
                raise BrokenFileError(f"{name} is not what was written")
    return entry


def write_entry(place: Path, entry: Entry, graph: Any | None, useless: int | None) -> Entry:
    """Keep a model whose `graph` (an `openvino.Model`) can run, or the reason why it cannot; the entry as it is kept.

    useless  what was `there` when nothing of use was found; anything else is the work of another process, and stays.

    Raises OSError if it cannot be written; what was there before is then still there.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent))
    try:
        if graph is not None:
            _save(graph, half)
            entry = replace(entry, files={name: _checked(half / name) for name in (GRAPH, WEIGHTS)})
        write_whole(half / ENTRY, _text(entry))
        _put(half, place, entry, useless)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return entry


def update_entry(place: Path, entry: Entry) -> None:
    """Write the description anew, if that is possible."""
    with contextlib.suppress(OSError):
        write_whole(place / ENTRY, _text(entry))


def _text(entry: Entry) -> str:
    return json.dumps(asdict(entry) | {"version": VERSION})


def _save(graph: Any, folder: Path) -> None:
    """Raises OSError where there is no room: OpenVINO would write half of a file, and say nothing."""
    ov = runtime()

    size = sum(node.get_byte_size() for node in graph.get_ops() if node.get_type_name() == "Constant")
    if shutil.disk_usage(folder).free < size + _MOST_BYTES:
        raise OSError(28, f"no space left for {size >> 20} MiB")
    try:
        ov.save_model(graph, folder / GRAPH, compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(5, str(error)) from error


def _put(half: Path, place: Path, entry: Entry, useless: int | None) -> None:
    """Move a whole folder to its place. Others may do so at the same moment; then the folder of one of them is there.

    What is there already is moved away, unless it is new and holds the same model.

    Raises OSError if what is at the place cannot be moved away.
    """
    for attempt in range(_ATTEMPTS):
        with contextlib.suppress(OSError):
            half.rename(place)
            return
        if there(place) not in (None, useless) and _is_kept(place, entry):
            return
        aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".old", dir=place.parent))
        try:
            os.rename(place, aside / "old")
        except OSError:  # somebody else has moved it away already
            if attempt == _ATTEMPTS - 1:
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    half.rename(place)


def _is_kept(place: Path, entry: Entry) -> bool:
    """Whether a whole entry of the same model is there."""
    try:
        return read_entry(place, entry.made_with).weights == entry.weights
    except (OSError, BrokenFileError):
        return False


def _checked(file: Path) -> tuple[int, int]:
    """Size and checksum of a file."""
    size = known = 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            size, known = size + len(chunk), zlib.crc32(chunk, known)
    return size, known
