"""Log-probabilities as clients read them. They are the target's own, before temperature and everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from draftgraph.request.result import Event
from draftgraph.server.token_texts import TokenTexts

LEAST = -9999.0
"""What stands for a probability of 0; JSON has no infinity."""


@dataclass(frozen=True)
class ScoredToken:
    """logprob  of the token; None for the first of a text. top  ids and log-probabilities of the likeliest, best first."""

    token: int
    logprob: float | None
    top: Sequence[tuple[int, float]] = ()


def scored_tokens(event: Event) -> list[ScoredToken]:
    """The tokens of an event, whose request asked for log-probabilities."""
    logprobs, top = getattr(event, "logprobs", ()), getattr(event, "top_logprobs", None)
    return [
        ScoredToken(*each) for each in zip(event.token_ids, logprobs, top or ((),) * len(event.token_ids), strict=True)
    ]


def chat_logprobs(tokens: Sequence[ScoredToken], texts: TokenTexts) -> dict[str, Any]:
    """`logprobs` of a choice of a chat."""
    return {"content": [_chat_token(token, texts) for token in tokens], "refusal": None}


def _chat_token(scored: ScoredToken, texts: TokenTexts) -> dict[str, Any]:
    top = [_entry(token, logprob, texts) for token, logprob in scored.top]
    return _entry(scored.token, scored.logprob, texts) | {"top_logprobs": top}


def _entry(token: int, logprob: float | None, texts: TokenTexts) -> dict[str, Any]:
    return {"token": texts.text_of(token), "logprob": _finite(logprob), "bytes": list(texts.bytes_of(token))}


def completion_logprobs(tokens: Sequence[ScoredToken], texts: TokenTexts, offset: int) -> dict[str, Any]:
    """`logprobs` of a choice of a completion.

    offset  characters of its text before these tokens. The token itself is among the likeliest, be it likely or not.
    """
    names = [texts.text_of(scored.token) for scored in tokens]
    offsets = []
    for scored in tokens:
        offsets.append(offset)
        offset += len(texts.bytes_of(scored.token).decode("utf-8", "ignore"))
    return {
        "tokens": names,
        "token_logprobs": [_finite(scored.logprob) for scored in tokens],
        "top_logprobs": [_likeliest(scored, texts) for scored in tokens],
        "text_offset": offsets,
    }


def _likeliest(scored: ScoredToken, texts: TokenTexts) -> dict[str, float | None] | None:
    if scored.logprob is None:
        return None
    listed = dict(scored.top) | {scored.token: scored.logprob}
    return {texts.text_of(token): _finite(logprob) for token, logprob in listed.items()}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST)
