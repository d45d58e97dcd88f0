"""What a server answered: the tokens of a text, and the probabilities that it states for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from draftgraph.errors import brief
from draftgraph.lab.remote.client import ServerError

LEAST_LOGPROB = -100.0
"""What stands for less: servers write -9999 or nothing for a probability of 0."""

Likeliest = tuple[tuple[str, float], ...]
"""Texts of tokens with log-probabilities, best first."""


@dataclass(frozen=True)
class Answer:
    """One sampled text.

    text       as it was answered.
    ended      whether it ended by itself, and not by the limit.
    pieces     the text of every token; None where the server does not tell tokens.
    logprobs   of every token, as the server states them. likeliest  per token, the listed alternatives behind the same prefix.
    drafted    tokens that the server says it drafted; None where it does not say.
    """

    text: str
    ended: bool
    pieces: tuple[str, ...] | None = None
    logprobs: tuple[float, ...] = ()
    likeliest: tuple[Likeliest, ...] = ()
    drafted: int | None = None


def read_answer(reply: Any) -> Answer:
    """The answer in a response of /completions or /chat/completions. Raises ServerError for anything else."""
    try:
        choice = reply["choices"][0]
        text = _clean(choice["text"] if "text" in choice else choice["message"].get("content") or "")
        ended = choice.get("finish_reason") != "length"
        told = choice.get("logprobs") or {}
        drafted = _drafted(reply)
        if told.get("content"):
            return Answer(text, ended, *_of_chat(told["content"]), drafted)
        if told.get("tokens"):
            return Answer(text, ended, *_of_completion(told), drafted)
        return Answer(text, ended, drafted=drafted)
    except (LookupError, TypeError, AttributeError, ValueError):
        raise ServerError(f"the answer is not one of OpenAI's API: {brief(reply)}") from None


def _of_chat(content: Sequence[Any]) -> tuple[tuple[str, ...], tuple[float, ...], tuple[Likeliest, ...]]:
    """A list of {token, logprob, top_logprobs}."""
    listed = tuple(
        _ordered((_clean(each["token"]), _finite(each["logprob"])) for each in entry.get("top_logprobs") or ())
        for entry in content
    )
    return (
        tuple(_clean(entry["token"]) for entry in content),
        tuple(_finite(entry["logprob"]) for entry in content),
        listed,
    )


def _of_completion(told: Any) -> tuple[tuple[str, ...], tuple[float, ...], tuple[Likeliest, ...]]:
    """Lists beside one another; the alternatives are objects, or null."""
    pieces = tuple(map(_clean, told["tokens"]))
    tops = told.get("top_logprobs") or [None] * len(pieces)
    listed = tuple(_ordered((_clean(text), _finite(logprob)) for text, logprob in (top or {}).items()) for top in tops)
    return pieces, tuple(map(_finite, told["token_logprobs"])), listed


def _clean(text: Any) -> str:
    """A text that can be written: halves of characters are replaced."""
    return str(text).encode("utf-8", "replace").decode()


def _ordered(entries: Any) -> Likeliest:
    return tuple(sorted(entries, key=lambda entry: -entry[1]))


def _finite(logprob: Any) -> float:
    if logprob is None:
        return LEAST_LOGPROB
    value = float(logprob)
    if math.isnan(value) or value > 1e-3:
        raise ValueError("not a log-probability")
    return min(max(value, LEAST_LOGPROB), 0.0)


def _drafted(reply: Any) -> int | None:
    """vLLM's count of drafted tokens in this request, which we send as well."""
    told = ((reply.get("metrics") or {}).get("speculative_decoding") or {}) if isinstance(reply, dict) else {}
    count = told.get("num_draft_tokens") if isinstance(told, dict) else None
    return count if isinstance(count, int) else None
