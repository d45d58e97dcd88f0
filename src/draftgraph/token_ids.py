"""Token ids, in whatever users and tokenizers hold them.

A list, a tuple, a range, an iterator, an array or tensor; a mapping with `input_ids`, of which an `attention_mask` hides the
padding; one text as the tokenizers package reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from draftgraph.errors import PromptError, brief
from draftgraph.values import MOST_ITEMS, as_flag, as_integer, as_list, as_number, is_array

POSSIBLE = "a prompt is a text, or a sequence of token ids, or what a tokenizer returns; a list of prompts is a batch"
_READ = ("input_ids", "attention_mask", "token_type_ids")
_HARMLESS = frozenset({
    "special_tokens_mask", "offset_mapping", "length", "num_truncated_tokens", "overflowing_tokens",
    "overflow_to_sample_mapping", "assistant_masks",
})  # fmt: skip
"""What tokenizers return beside the ids that says nothing about the text."""
NAMES = frozenset({*_READ, *_HARMLESS})


def token_ids(prompt: Any) -> list[int]:
    """The ids of a prompt that is no text; of its only row, if its shape is that of a batch."""
    if is_mapping(prompt):
        rows, _ = rows_of(prompt)
        if len(rows) != 1:
            raise PromptError(f"{len(rows)} rows stand where one prompt belongs; {POSSIBLE}")
        return rows[0]
    items = items_of(prompt)
    if is_array(prompt) and prompt.ndim == 2 and len(items) == 1:
        items = items[0]
    return _integers(items, "the prompt")


def _integers(items: Sequence[Any], whose: str) -> list[int]:
    ids: list[int] = []
    for position, item in enumerate(items):
        token = as_integer(item)
        if token is None:
            raise PromptError(f"token ids are integers; item {position} of {whose} is {brief(item)}; {POSSIBLE}")
        ids.append(token)
    return ids


def items_of(prompt: Any) -> list[Any]:
    """The items of what should be token ids or prompts. Raises PromptError for what has none, or no order."""
    if isinstance(prompt, bytes | bytearray | memoryview):
        raise PromptError("the prompt is bytes; write prompt.decode('utf-8') for a text, or list(prompt) for token ids")
    if isinstance(prompt, os.PathLike) or hasattr(prompt, "readline"):
        raise PromptError(f"the prompt is a file, {brief(prompt)}; write its text, e.g. Path(...).read_text()")
    if isinstance(prompt, set | frozenset):
        raise PromptError(f"the prompt is a {type(prompt).__name__}, which has no order; write a list")
    items = as_list(prompt)
    if items is None:
        most = f" of at most {MOST_ITEMS} items" if hasattr(prompt, "__next__") else ""
        raise PromptError(
            f"no token ids can be read from {brief(prompt)}, of type {type(prompt).__name__}; {POSSIBLE}{most}"
        )
    return items


def is_prompt(item: Any) -> bool:
    """Whether an item of a list stands for a prompt: a text, a mapping, or something with items of its own."""
    return item.ndim > 0 if is_array(item) else hasattr(item, "__iter__") or is_mapping(item)


def is_mapping(prompt: Any) -> bool:
    """What is looked up by names; to iterate over it would give the names. Also one text as the tokenizers package reads it."""
    return isinstance(prompt, Mapping) or hasattr(prompt, "keys") or _is_encoding(prompt)


def _is_encoding(prompt: Any) -> bool:
    return hasattr(prompt, "ids") and hasattr(prompt, "attention_mask")


def rows_of(prompt: Any) -> tuple[list[list[int]], bool]:
    """The rows of a mapping with `input_ids`, without padding, and whether its shape is that of a batch."""
    if _is_encoding(prompt):
        prompt = {"input_ids": prompt.ids, "attention_mask": prompt.attention_mask}
    names = list(prompt.keys())
    if "input_ids" not in names:
        raise PromptError(f"a prompt that is a mapping has input_ids; this one has {brief(names)}. {_instead(names)}")
    fields = {name: prompt[name] for name in names if prompt[name] is not None}
    unread = [name for name in fields if name not in _READ and name not in _HARMLESS]
    if unread:
        raise PromptError(
            f"a prompt is input_ids and attention_mask; {brief(unread[0])} cannot be honoured. Leave it out"
        )
    ids, is_batch = _matrix(prompt["input_ids"], "input_ids", as_integer)
    if any(any(row) for row in _matrix(fields.get("token_type_ids", ()), "token_type_ids", as_integer)[0]):
        raise PromptError(
            "token_type_ids other than 0 cannot be honoured; leave them out, if the model does not read them"
        )
    if "attention_mask" not in fields:
        return ids, is_batch
    mask, _ = _matrix(fields["attention_mask"], "attention_mask", _as_bit)
    if [len(row) for row in mask] != [len(row) for row in ids]:
        raise PromptError("attention_mask has another shape than input_ids; give one number, 0 or 1, for every id")
    return [_unpadded(row, seen) for row, seen in zip(ids, mask, strict=True)], is_batch


def _instead(names: Sequence[Any]) -> str:
    if "role" in names or "messages" in names:
        return "For chat messages write engine.chat(messages)"
    return "Write the text itself, or {'input_ids': [...]}"


def _matrix(given: Any, name: str, read: Callable[[Any], int | None]) -> tuple[list[list[int]], bool]:
    """Rows of integers, and whether their shape is that of a batch: [rows, length] rather than [length]."""
    items = as_list(given)
    is_batch = bool(items) and all(is_prompt(item) for item in items or ())
    rows = [as_list(item) for item in items or ()] if is_batch else [items]
    matrix: list[list[int]] = []
    for row in rows:
        numbers = [None] if row is None else [read(item) for item in row]
        matrix.append([number for number in numbers if number is not None])
        if len(matrix[-1]) != len(numbers):
            kind = "0 and 1" if read is _as_bit else "integers"
            raise PromptError(f"{name} is {brief(given)}; write {kind} of shape [length] or [rows, length]")
    return matrix, is_batch


def _as_bit(item: Any) -> int | None:
    """0 or 1 from what a mask may hold: flags, or numbers of any kind."""
    flag = as_flag(item)
    number = as_number(item) if flag is None else float(flag)
    return int(number) if number in (0.0, 1.0) else None


def _unpadded(ids: list[int], mask: list[int]) -> list[int]:
    """The ids that a mask shows: all but padding on the left and on the right."""
    if 1 not in mask:
        return []
    begin, end = mask.index(1), len(mask) - mask[::-1].index(1)
    if 0 in mask[begin:end]:
        raise PromptError(
            "attention_mask has gaps: a token between others is hidden. Leave such tokens out of input_ids; padding may "
            "stand on the left or on the right"
        )
    return ids[begin:end]
