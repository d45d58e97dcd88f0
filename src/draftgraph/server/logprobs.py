"""Log-probabilities as clients read them. They are the target's own, before temperature and everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from draftgraph.engine.scoring import Scores
from draftgraph.request.result import Event
from draftgraph.server.token_texts import Offsets, TokenTexts

LEAST = -9999.0
"""What stands for a probability of 0; JSON has no infinity."""


@dataclass(frozen=True)
class ScoredToken:
    """logprob  of the token; None for the first of a text. top  ids and log-probabilities of the likeliest, best first."""

    token: int
    logprob: float | None
    top: Sequence[tuple[int, float]] = ()


def scored_event(event: Event) -> list[ScoredToken]:
    """The tokens of an event, whose request asked for log-probabilities."""
    return _scored(event.token_ids, event.logprobs or (), event.top_logprobs)


def scored_prompt(scores: Scores) -> list[ScoredToken]:
    return _scored(scores.token_ids, scores.logprobs, scores.top_logprobs)


def _scored(tokens: Sequence[int], logprobs: Sequence[float | None], top: Sequence[Any] | None) -> list[ScoredToken]:
    lists = top or ((),) * len(tokens)
    return [
        ScoredToken(token, logprob, best or ()) for token, logprob, best in zip(tokens, logprobs, lists, strict=True)
    ]


def chat_logprobs(tokens: Sequence[ScoredToken], texts: TokenTexts) -> dict[str, Any]:
    """`logprobs` of a choice of a chat."""
    return {"content": [_chat_token(token, texts) for token in tokens], "refusal": None}


def _chat_token(scored: ScoredToken, texts: TokenTexts) -> dict[str, Any]:
    top = [_entry(token, logprob, texts) for token, logprob in scored.top]
    return _entry(scored.token, scored.logprob, texts) | {"top_logprobs": top}


def _entry(token: int, logprob: float | None, texts: TokenTexts) -> dict[str, Any]:
    return {"token": texts.text_of(token), "logprob": _finite(logprob), "bytes": list(texts.bytes_of(token))}


def completion_logprobs(tokens: Sequence[ScoredToken], texts: TokenTexts, offsets: Offsets) -> dict[str, Any]:
    """`logprobs` of a choice of a completion. A token is among its likeliest, be it likely or not.

    offsets  counts the characters of the text before these tokens.
    """
    return {
        "tokens": [texts.text_of(scored.token) for scored in tokens],
        "token_logprobs": [_finite(scored.logprob) for scored in tokens],
        "top_logprobs": [_likeliest(scored, texts) for scored in tokens],
        "text_offset": [offsets.before(texts.shown_bytes_of(scored.token)) for scored in tokens],
    }


def _likeliest(scored: ScoredToken, texts: TokenTexts) -> dict[str, float | None] | None:
    if scored.logprob is None:
        return None
    listed = dict(scored.top) | {scored.token: scored.logprob}
    return {texts.text_of(token): _finite(logprob) for token, logprob in listed.items()}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST)
