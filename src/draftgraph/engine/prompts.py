"""Prompts: what a user gives, as token ids.

A prompt is a text, or token ids in any container that has an order: a list, a tuple, a range, an iterator, a 1-D array or
tensor, or what a tokenizer returns, a mapping with `input_ids`. A list of prompts, a 2-D array and a mapping with several rows
are batches; so are an array and a mapping of one row, since their shape says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from draftgraph.errors import PromptError, brief
from draftgraph.token_ids import NAMES, is_mapping, is_prompt, items_of, rows_of, token_ids
from draftgraph.values import has_surrogates

Prompt = str | Iterable[int] | Mapping[str, Any]


def split(prompt: Any) -> tuple[list[Any], bool]:
    """The prompts of a call, each still as it was given, and whether they came as a batch. Raises PromptError."""
    if isinstance(prompt, str):
        return [prompt], False
    if is_mapping(prompt):
        return rows_of(prompt)
    items = items_of(prompt)
    if not items:
        raise PromptError(
            "the prompt is empty; pass at least one token, e.g. the tokenizer's bos_token_id, or at least one prompt"
        )
    is_batch = any(is_prompt(item) for item in items)
    return (items, True) if is_batch else ([items], False)


def take_named(prompt: Any, options: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Prompt and options of a call that may have been written `generate(**tokenizer(text))`."""
    if prompt is not None or "input_ids" not in options:
        return prompt, options
    named = {name: value for name, value in options.items() if name in NAMES}
    return named, {name: value for name, value in options.items() if name not in NAMES}


def encode(prompt: Any, tokenizer: Any | None, vocab_size: int) -> list[int]:
    """The token ids of one prompt. Raises PromptError."""
    ids = _tokenized(prompt, tokenizer) if isinstance(prompt, str) else token_ids(prompt)
    if not ids:
        raise PromptError("the prompt is empty; pass at least one token, e.g. the tokenizer's bos_token_id")
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise PromptError(f"token id {brief(wrong)} is outside the target's vocabulary of {vocab_size}")
    return ids


def refuse_surrogates(text: str) -> None:
    """Raise PromptError for half a character: no tokenizer reads it."""
    if has_surrogates(text):
        raise PromptError(
            "the text has a lone surrogate, half a character that was read wrongly; read it as UTF-8, "
            "or write text.encode('utf-8', 'replace').decode()"
        )


def _tokenized(text: str, tokenizer: Any | None) -> list[int]:
    """The ids of a text, with what the tokenizer adds to its beginning unless the text begins so already.

    Chat templates rendered as text begin with the start token; a second one is read as no model was trained to read it.
    """
    if tokenizer is None:
        raise PromptError(
            "a text prompt needs a tokenizer; pass token ids, or Engine.from_pretrained(..., tokenizer=...)"
        )
    refuse_surrogates(text)
    try:
        ids = list(tokenizer(text)["input_ids"])
        begins_twice = any(ids[:count] == ids[count : 2 * count] for count in range(1, 5))
        bare = list(tokenizer(text, add_special_tokens=False)["input_ids"]) if begins_twice else []
    except Exception as error:
        raise PromptError(f"the tokenizer cannot read the text: {type(error).__name__}: {error}") from error
    added = next((count for count in range(1, 5) if bare and ids[count : count + len(bare)] == bare), 0)
    return ids[added:] if ids[:added] == bare[:added] else ids
