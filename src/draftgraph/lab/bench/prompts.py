"""Prompt files of the usual benchmarks, recognised by their fields; what cannot be read is named by its line.

    Spec-Bench, MT-bench   {"question_id": ..., "category": "qa", "turns": ["...", "..."]}    a conversation, task: its category
    HumanEval              {"task_id": "HumanEval/69", "prompt": "..."}                       a beginning, task: before the slash
    others                 {"prompt": "..."} or {"text": "..."}, optionally "name", "category"   a beginning
    plain text             beginnings with blank lines between them if there is a blank line, else one per line

The objects stand one per line (JSONL), or in one list (.json), which may hold texts as well. A file is JSONL if it is called
.jsonl or its first line is a JSON object. Without a category, the task is the file's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from draftgraph.errors import OptionError
from draftgraph.files import BrokenFileError, decode, read_bytes
from draftgraph.strictjson import parse, seen

BUNDLED = Path(__file__).with_name("prompts_python.jsonl")
"""Beginnings of Python functions and classes, written for this benchmark."""
T = TypeVar("T")
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Entry:
    """One entry of a file. turns  what the user says, in order; if not `chat`, the one beginning that is to be continued."""

    name: str
    task: str
    turns: Sequence[str]
    chat: bool


@dataclass(frozen=True)
class Broken:
    """A line that says nothing usable, and why. line  from 1; in a JSON list, the number of the entry."""

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

    @property
    def texts(self) -> list[str]:
        """One text per entry: the turns of a conversation with blank lines between them."""
        return ["\n\n".join(entry.turns) for entry in self.entries]


def read_prompts(path: Path) -> PromptFile:
    """The prompts of a file. Raises OptionError if it cannot be read, or no line of it is usable."""
    try:
        content = read_bytes(path).removeprefix(_MARK)
        if not content.strip():
            raise OptionError(f"{str(path)!r} is empty; give prompts as JSONL, or as plain text, one per line")
        if path.suffix == ".json" or (path.suffix != ".jsonl" and _is(list, content)):
            return _gather(path, enumerate(_listed(parse(decode(content))), 1))
        first = next(line for line in content.split(b"\n") if line.strip())
        if path.suffix == ".jsonl" or _is(dict, first):
            return _gather(path, enumerate(content.split(b"\n"), 1))
        texts = _plain_texts(decode(content))
    except OSError as error:
        raise OptionError(f"cannot read prompts from {str(path)!r}: {error.strerror}; give a file of prompts") from None
    except BrokenFileError as error:
        raise OptionError(
            f"cannot read prompts from {str(path)!r}: {error}; give JSONL, or plain text in UTF-8"
        ) from None
    entries = [Entry(f"{path.stem}:{i}", path.stem, (text,), False) for i, text in enumerate(texts, 1)]
    return PromptFile(str(path), "plain text", entries, ())


def _gather(path: Path, lines: Iterator[tuple[int, Any]]) -> PromptFile:
    """The entries of numbered lines (bytes), or of numbered values of a JSON list. Raises OptionError if none is usable."""
    entries, broken = [], []
    forms: dict[str, None] = {}
    for number, line in lines:
        try:
            if isinstance(line, bytes) and not line.strip():
                continue
            form, entry = _entry(parse(decode(line)) if isinstance(line, bytes) else line, number, path)
        except BrokenFileError as error:
            broken.append(Broken(str(path), number, str(error)))
        else:
            entries.append(entry)
            forms[form] = None
    if not entries:
        why = f" ({broken[0]})" if broken else ""
        raise OptionError(
            f"no line of {str(path)!r} is a prompt{why}; a line is a JSON object with turns, prompt or text"
        )
    return PromptFile(str(path), ", ".join(forms), entries, broken)


def _is(kind: type, content: bytes) -> bool:
    """Whether it is JSON that says a list, or an object."""
    try:
        return isinstance(parse(decode(content)), kind)
    except BrokenFileError:
        return False


def _listed(value: Any) -> list[Any]:
    """The entries of a .json file: a list, or one object."""
    if isinstance(value, (list, dict)):
        return value if isinstance(value, list) else [value]
    raise BrokenFileError(f"it says {seen(value)}, and not a list of prompts")


def _plain_texts(content: str) -> list[str]:
    """Texts with blank lines between them if there is a blank line, else one per line. Raises BrokenFileError."""
    if "\0" in content:
        raise BrokenFileError("it holds zero bytes, so it is no text")
    content = content.replace("\r\n", "\n")
    texts = content.split("\n\n" if "\n\n" in content.strip() else "\n")
    return [text for text in texts if text.strip()]


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


def _entry(fields: Any, number: int, path: Path) -> tuple[str, Entry]:
    """The format and the entry of a JSON value. Raises BrokenFileError."""
    if _is_text(fields):
        return "texts", Entry(f"{path.stem}:{number}", path.stem, (fields,), False)
    if not isinstance(fields, dict):
        raise BrokenFileError("not a JSON object")
    task = _word(fields, "category") or path.stem
    name = next((word for key in ("question_id", "task_id", "name") if (word := _word(fields, key))), str(number))
    if "turns" in fields:
        turns = fields["turns"]
        if not isinstance(turns, list) or not turns or not all(map(_is_text, turns)):
            raise BrokenFileError('"turns" is no list of texts')
        return "conversations", Entry(f"{path.stem}:{name}", task, tuple(turns), True)
    key = next((key for key in ("prompt", "text") if key in fields), None)
    if key is None:
        raise BrokenFileError('none of the fields "turns", "prompt" and "text"')
    if not _is_text(fields[key]):
        raise BrokenFileError(f'"{key}" is no text')
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
