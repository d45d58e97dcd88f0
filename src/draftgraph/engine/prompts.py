"""Prompts: what a user gives, as token ids."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from draftgraph.errors import PromptError

Prompt = str | Sequence[int]


def encode(prompt: Prompt, tokenizer: Any | None, vocab_size: int) -> list[int]:
    """The token ids of a prompt: a text, or a sequence of ids. Raises PromptError."""
    if isinstance(prompt, str):
        if tokenizer is None:
            raise PromptError(
                "a text prompt needs a tokenizer; pass token ids, or Engine.from_pretrained(..., tokenizer=...)"
            )
        prompt = tokenizer(prompt)["input_ids"]
    try:
        ids = [operator.index(token) for token in prompt]  # type: ignore[arg-type]  # text or not a number: refused
    except TypeError as error:
        raise PromptError(f"a prompt is a text, or a sequence of token ids; got {str(prompt)[:60]!r}") from error
    if not ids:
        raise PromptError("the prompt is empty; pass at least one token, e.g. the tokenizer's bos_token_id")
    wrong = [token for token in ids if not 0 <= token < vocab_size]
    if wrong:
        raise PromptError(f"token id {wrong[0]} is outside the target's vocabulary of {vocab_size}")
    return ids


def is_batch(prompt: Any) -> bool:
    if isinstance(prompt, str) or not hasattr(prompt, "__len__"):
        return False
    return len(prompt) > 0 and not all(isinstance(token, int) or _is_scalar(token) for token in prompt)


def _is_scalar(token: Any) -> bool:
    return getattr(token, "ndim", None) == 0
