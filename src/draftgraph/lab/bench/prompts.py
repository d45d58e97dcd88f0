"""Prompt files of the usual benchmarks, recognised by their fields; what cannot be read is named by its line.

    Spec-Bench, MT-bench   {"question_id": ..., "category": "qa", "turns": ["...", "..."]}    a conversation, task: its category
    HumanEval              {"task_id": "HumanEval/69", "prompt": "..."}                       a beginning, task: before the slash
    others, JSONL          {"prompt": "..."} or {"text": "..."}, optionally "name", "category"   a beginning
    plain text             beginnings with blank lines between them if there is a blank line, else one per line

A file is JSONL if it is called .jsonl or its first line is a JSON object. Without a category, the task is the file's name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from draftgraph.errors import OptionError
from draftgraph.lab.texts import read_texts

BUNDLED = Path(__file__).with_name("prompts_python.jsonl")
"""Beginnings of Python functions and classes, written for this benchmark."""
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One entry of a file. turns  what the user says, in order; if not `chat`, the one beginning that is to be continued."""

    name: str
    task: str
    turns: Sequence[str]
    chat: bool


@dataclass(frozen=True)
class Broken:
    """A line that says nothing usable, and why. line  from 1."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class PromptFile:
    """What a file held. form  how it was read."""

    path: str
    form: str
    entries: Sequence[Entry]
    broken: Sequence[Broken]


class _LineError(ValueError):
    """What is wrong with a line."""


def read_prompts(path: Path) -> PromptFile:
    """The prompts of a file. Raises OptionError if it cannot be read, or no line of it is usable."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise OptionError(f"cannot read prompts from {str(path)!r}: {error.strerror}; give a file of prompts") from None
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise OptionError(f"{str(path)!r} is empty; give prompts as JSONL, or as plain text, one per line")
    if path.suffix != ".jsonl" and not _is_object(first):
        texts = read_texts(path)
        entries = [Entry(f"{path.stem}:{i}", path.stem, (text,), False) for i, text in enumerate(texts, 1)]
        return PromptFile(str(path), "plain text", entries, ())
    entries, broken = [], []
    forms: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            form, entry = _entry(line, number, path)
        except _LineError as error:
            broken.append(Broken(str(path), number, str(error)))
        else:
            entries.append(entry)
            forms[form] = None
    if not entries:
        raise OptionError(
            f"no line of {str(path)!r} is a prompt ({broken[0]}); a line is a JSON object with turns, prompt or text"
        )
    return PromptFile(str(path), ", ".join(forms), entries, broken)


def limited(entries: Sequence[Entry], limit: int | None) -> list[Entry]:
    """At most `limit` entries per task, at even distances."""
    if limit is None:
        return list(entries)
    by_task: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        by_task.setdefault(entry.task, []).append(place)
    return [entries[place] for place in sorted(place for places in by_task.values() for place in spread(places, limit))]


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items, at even distances: neighbours in a file are often alike."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _entry(line: bytes, number: int, path: Path) -> tuple[str, Entry]:
    """The format and the entry of a line. Raises _LineError."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise _LineError(f"not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise _LineError("not a JSON object")
    task = _word(fields, "category") or path.stem
    name = next((word for key in ("question_id", "task_id", "name") if (word := _word(fields, key))), str(number))
    if "turns" in fields:
        turns = fields["turns"]
        if not isinstance(turns, list) or not turns or not all(map(_is_text, turns)):
            raise _LineError('"turns" is no list of texts')
        return "conversations", Entry(f"{path.stem}:{name}", task, tuple(turns), True)
    key = next((key for key in ("prompt", "text") if key in fields), None)
    if key is None:
        raise _LineError('none of the fields "turns", "prompt" and "text"')
    if not _is_text(fields[key]):
        raise _LineError(f'"{key}" is no text')
    if key == "prompt" and "/" in (_word(fields, "task_id") or ""):
        return "HumanEval", Entry(name, name.rpartition("/")[0], (fields[key],), False)
    return f'beginnings in "{key}"', Entry(f"{path.stem}:{name}", task, (fields[key],), False)


def _is_text(value: Any) -> bool:
    """Half a surrogate pair, which JSON can write, is no text."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)


def _word(fields: dict[str, Any], key: str) -> str | None:
    """A field that names something; numbers are names, too."""
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        return None
    return str(value)
