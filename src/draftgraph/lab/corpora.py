"""Texts to count: files, folders of files, and the texts in the objects of .jsonl files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from draftgraph.errors import OptionError
from draftgraph.files import BrokenFileError, read_text
from draftgraph.strictjson import parse

MOST_BYTES = 1 << 32
"""Of one file."""
PIECE = 1 << 14
"""Characters that a tokenizer reads at once, about: pieces end where lines do."""


def files_of(sources: Sequence[Path]) -> list[tuple[Path, int, bool]]:
    """Every file, its size in bytes, and whether it was named itself. Folders are read in order, without hidden files.

    Raises OptionError for what is not there, and for folders without files.
    """
    found: dict[Path, tuple[Path, int, bool]] = {}
    for source in sources:
        if not os.path.lexists(source):
            raise OptionError(f"there is no {str(source)!r}; give files or folders of texts")
        inside = sorted(_below(source)) if source.is_dir() else [source]
        for file in inside:
            size = file.stat().st_size if file.is_file() else 0
            found.setdefault(file, (file, size, not source.is_dir()))
    if not found:
        raise OptionError(f"{', '.join(map(str, sources))} hold no files; give files or folders of texts")
    return [*found.values()]


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def texts_of(file: Path) -> Iterator[str]:
    """The texts of a file: its content, or of a .jsonl file every text in every object, in order.

    Raises OptionError, with the line, for a file that cannot be read so.
    """
    try:
        content = read_text(file, MOST_BYTES)
    except (OSError, BrokenFileError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"cannot read {str(file)!r}: {why}; give texts in UTF-8") from None
    if file.suffix != ".jsonl":
        yield content
        return
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                value = parse(line)
            except BrokenFileError as error:
                raise OptionError(f"{str(file)!r}, line {number}: {error}; give one JSON value a line") from None
            yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def pieces(text: str) -> Iterator[str]:
    """A text in pieces that end where a line does, or where they are too long."""
    begin = 0
    while begin < len(text):
        end = min(begin + PIECE, len(text))
        if end < len(text):
            line = text.rfind("\n", begin, end)
            end = line + 1 if line > begin else end
        yield text[begin:end]
        begin = end
