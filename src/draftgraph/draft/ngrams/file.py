"""Tables of n-grams on disk: one safetensors file, whose metadata says what it is and of which tokenizer.

    format       "draftgraph ngrams"
    version      of this layout; a newer one is refused
    vocab        tokens of the tokenizer's vocabulary
    tokenizer    its fingerprint
    num_tokens   tokens that were counted
    digest       SHA-256 of all else

Nothing in it can run, and every index is checked before it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from draftgraph.backends.fingerprint import tokenizer_fingerprint
from draftgraph.draft.ngrams.counts import BITS, MOST_TOKENS, ROW, Array, Counts, Rows
from draftgraph.errors import TableError, first_line
from draftgraph.files import BrokenFileError, read_bytes, write_whole
from draftgraph.strictjson import parse, seen

FORMAT, VERSION = "draftgraph ngrams", 1
MOST_BYTES = 1 << 33
MOST_HEADER = 1 << 16
BUILD = "build it again with `draftgraph table build`"
DTYPES = {"keys": "int64", "starts": "int64", "tokens": "int32", "counts": "int64", "totals": "int64", "kinds": "int64"}
_PARTS = ("single", "pairs")


@dataclass(frozen=True, eq=False)
class StoredTable:
    """A table as its file says.

    tokenizer  fingerprint of the tokenizer that made its tokens. digest  of the content. file  where it was read.
    """

    counts: Counts
    tokenizer: str
    digest: str
    file: Path

    def refuse_foreign(self, vocab: int, tokenizer: Any | None) -> None:
        """Raise TableError for a target whose tokens are others. Without a tokenizer only sizes can be compared.

        vocab  size of the target's vocabulary.
        """
        if tokenizer is not None and tokenizer_fingerprint(tokenizer) != self.tokenizer:
            raise TableError(
                f"the table {str(self.file)!r} was built with another tokenizer, so that its tokens mean something else; "
                "build one with `draftgraph table build CORPUS --model TARGET --out FILE`"
            )
        if self.counts.largest >= vocab:
            raise TableError(
                f"the table {str(self.file)!r} holds token id {self.counts.largest}, and the target has {vocab} tokens; "
                "build one with `draftgraph table build CORPUS --model TARGET --out FILE`"
            )


def write_table(file: Path, counts: Counts, tokenizer: str) -> StoredTable:
    """Write a table, whole or not at all.

    Raises TableError where the disk or the name does not allow it; an older file is then still whole.
    """
    arrays = {
        f"{part}.{name}": np.ascontiguousarray(getattr(rows, name), dtype=dtype)
        for part, rows in zip(_PARTS, (counts.single, counts.pairs), strict=True)
        for name, dtype in DTYPES.items()
    }
    said = {"format": FORMAT, "version": str(VERSION), "vocab": str(counts.vocab), "tokenizer": tokenizer}
    said |= {"num_tokens": str(counts.num_tokens)}
    digest = _digest(said, arrays)
    try:
        write_whole(file, safetensors.numpy.save(arrays, said | {"digest": digest}))
    except OSError as error:
        raise TableError(
            f"cannot write {str(file)!r}: {error.strerror}; what was there before is whole. Make room, or give another file"
        ) from error
    return StoredTable(counts, tokenizer, digest, file)


def read_table(file: Path) -> StoredTable:
    """A table, checked. Raises TableError for a file that is none, is damaged, or was written by a later version."""
    try:
        content = read_bytes(file, MOST_BYTES)
        said = _metadata(content)
        arrays = safetensors.numpy.load(content)
        counts = _counts(said, arrays)
    except OSError as error:
        raise TableError(f"cannot read the table {str(file)!r}: {error.strerror}") from error
    except BrokenFileError as error:
        raise TableError(f"the table {str(file)!r} cannot be used: {error}") from None
    except Exception as error:  # the library raises errors of its own, and others for sizes that make no sense
        raise TableError(f"the table {str(file)!r} is damaged ({first_line(error)}); {BUILD}") from error
    return StoredTable(counts, said["tokenizer"], said["digest"], file)


def _metadata(content: bytes) -> dict[str, str]:
    """What the file says of itself. Raises BrokenFileError."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= length <= min(MOST_HEADER, len(content) - 8):
        raise BrokenFileError(f"it is no table, or truncated; {BUILD}")
    try:
        header = parse(content[8 : 8 + length].decode("utf-8"))
    except (UnicodeDecodeError, BrokenFileError):
        raise BrokenFileError(f"it is no table, or damaged; {BUILD}") from None
    said = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise BrokenFileError(f"it is a file of another kind; {BUILD}")
    if said.get("version") != str(VERSION):
        raise BrokenFileError(
            f"it has version {seen(said.get('version'))}, and this draftgraph reads version {VERSION}; {BUILD}, or install "
            "the draftgraph that wrote it"
        )
    for name in ("vocab", "tokenizer", "num_tokens", "digest"):
        if not isinstance(said.get(name), str):
            raise BrokenFileError(f"it does not say its {name}; {BUILD}")
    return said


def _counts(said: Mapping[str, str], arrays: Mapping[str, Array]) -> Counts:
    """The counts, every index of which points to something. Raises BrokenFileError."""
    names = {f"{part}.{name}" for part in _PARTS for name in DTYPES}
    if set(arrays) != names:
        raise BrokenFileError(f"it lacks {min(names ^ set(arrays))}, or has it beside what belongs there; {BUILD}")
    if _digest({name: value for name, value in said.items() if name != "digest"}, arrays) != said["digest"]:
        raise BrokenFileError(f"its content is not what was written (the digest differs); copy it again, or {BUILD}")
    vocab, num_tokens = int(said["vocab"]), int(said["num_tokens"])
    if not 0 < vocab <= MOST_TOKENS:
        raise BrokenFileError(f"it says a vocabulary of {vocab} tokens; {BUILD}")
    single, pairs = (Rows(**{field.name: arrays[f"{part}.{field.name}"] for field in fields(Rows)}) for part in _PARTS)
    for length, rows in ((1, single), (2, pairs)):
        if not _sound(rows, vocab, length):
            raise BrokenFileError(f"its rows contradict each other; {BUILD}")
    return Counts(single, pairs, vocab, num_tokens)


def _sound(rows: Rows, vocab: int, length: int) -> bool:
    """Whether keys rise, rows lie within the arrays, and every token within the vocabulary."""
    number, held = len(rows.keys), len(rows.tokens)
    shapes = {"starts": number + 1, "tokens": held, "counts": held, "totals": number, "kinds": number, "keys": number}
    if any(getattr(rows, name).shape != (size,) for name, size in shapes.items()):
        return False
    if any(getattr(rows, name).dtype != dtype for name, dtype in DTYPES.items()):
        return False
    sizes = np.diff(rows.starts)
    in_order = rows.starts[0] == 0 and rows.starts[-1] == held and bool(((sizes >= 1) & (sizes <= ROW)).all())
    parts = [rows.keys >> BITS, rows.keys & (MOST_TOKENS - 1)] if length == 2 else [rows.keys]
    tokens = all(bool(((part >= 0) & (part < vocab)).all()) for part in (*parts, rows.tokens))
    positive = all(bool((part >= 1).all()) for part in (rows.counts, rows.totals, rows.kinds))
    return in_order and tokens and positive and bool((np.diff(rows.keys) > 0).all())


def _digest(said: Mapping[str, str], arrays: Mapping[str, Array]) -> str:
    known = hashlib.sha256(json.dumps(dict(sorted(said.items()))).encode())
    for name in sorted(arrays):
        known.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        known.update(np.ascontiguousarray(arrays[name]).data)
    return known.hexdigest()
