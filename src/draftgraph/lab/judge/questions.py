"""Questions whose answers can be checked, and what checks them."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from draftgraph.errors import OptionError
from draftgraph.files import BrokenFileError, read_text
from draftgraph.lab.texts import laid_out
from draftgraph.lab.train.errors import TrainingError

Check = Callable[[str, str], bool]
"""check(reference, answer) -> whether the answer is right. Without a reference in the file it is the target's own answer."""
LAST_NUMBER = "last-number"
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Question:
    """prompt  token ids. reference  the right answer; None: what the target answers."""

    prompt: tuple[int, ...]
    reference: str | None = None


def read_questions(file: Path, tokenizer: Any) -> list[Question]:
    """The questions of a file, as chats where the tokenizer has a template.

    A .jsonl file has objects with `prompt` (or `question`) and perhaps `answer`; any other file has a prompt a line.

    Raises TrainingError for what cannot be read, and for a file without questions.
    """
    try:
        lines = [line for line in read_text(file).splitlines() if line.strip()]
        asked = [_parsed(line) if file.suffix == ".jsonl" else (line, None) for line in lines]
    except OSError as error:
        raise TrainingError(f"cannot read {file}: {error.strerror or error}") from error
    except (BrokenFileError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{file} holds no questions ({type(error).__name__}: {error}); a .jsonl file has objects with 'prompt' and perhaps "
            "'answer', any other file a prompt a line"
        ) from error
    found = [Question(tuple(_encoded(prompt, tokenizer)), reference) for prompt, reference in asked]
    kept = [question for question in found if question.prompt]
    if not kept:
        raise TrainingError(f"{file} holds no questions; give a file with a prompt a line")
    return kept


def _parsed(line: str) -> tuple[str, str | None]:
    entry = json.loads(line)
    prompt = entry["prompt"] if "prompt" in entry else entry["question"]
    reference = entry.get("answer")
    if not isinstance(prompt, str) or not isinstance(reference, str | None):
        raise TypeError("prompt and answer are texts")
    return prompt, reference


def _encoded(text: str, tokenizer: Any) -> Sequence[int]:
    if getattr(tokenizer, "chat_template", None):
        return laid_out([{"role": "user", "content": text}], tokenizer)
    return list(tokenizer(text)["input_ids"])


def last_number(reference: str, answer: str) -> bool:
    """Whether the last numbers of two texts are the same, as answers of GSM8K are compared."""
    wanted, given = (_NUMBER.findall(text) for text in (reference, answer))
    return bool(wanted and given) and float(wanted[-1].replace(",", "")) == float(given[-1].replace(",", ""))


def find_check(name: str) -> Check:
    """A checker: "last-number", or a function of the user's as `module:function`. Raises OptionError."""
    if name == LAST_NUMBER:
        return last_number
    module, colon, attribute = name.partition(":")
    if not colon:
        raise OptionError(f"--check {name!r} is not possible; write {LAST_NUMBER}, or module:function of your own")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not look in the current folder by itself
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # the module runs the user's code, which may raise anything
        raise OptionError(
            f"cannot import the checker {name!r}: {type(error).__name__}: {error}; write module:function of a function "
            "check(reference, answer) -> bool"
        ) from error
    if not callable(found):
        raise OptionError(f"{name!r} is not a function but {found!r}; write one, check(reference, answer) -> bool")
    check: Check = found
    return check
