"""Answers as they grow: the same events make the chunks of a stream and, at the end, the whole answer."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from draftgraph.engine.scoring import Scores
from draftgraph.request.result import Event, Result
from draftgraph.server.logprobs import ScoredToken, scored_event
from draftgraph.server.schemas import Sampled
from draftgraph.server.service import Service
from draftgraph.server.tracing import tracing_of
from draftgraph.server.usage import speculation_of, usage, usage_of


@dataclass
class Growing:
    """One choice so far."""

    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    scored: list[ScoredToken] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Answer(ABC):
    """The answer to one request.

    prompts  token ids of its prompts. per_prompt  choices of each.
    """

    kind: str
    """`object` of the whole answer; `chunk_kind` of its chunks; `prefix` is what its id begins with."""
    chunk_kind: str
    prefix: str

    def __init__(self, asked: Sampled, service: Service, prompts: Sequence[Sequence[int]], per_prompt: int) -> None:
        self.asked, self.prompts, self.per_prompt = asked, prompts, per_prompt
        self.model, self.texts = service.settings.model, service.texts
        self.fingerprint = f"draftgraph-{service.engine.target.name}"
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.choices = [Growing() for _ in range(len(prompts) * per_prompt)]
        self.wants_logprobs = asked_logprobs(asked)
        self._tracing = tracing_of(asked, service.engine.tokenizer, prompts, per_prompt)
        options = asked.stream_options
        self._tells_usage = options is not None and bool(options.include_usage or options.continuous_usage_stats)
        self._counts = options is not None and bool(options.continuous_usage_stats)

    def opening(self, scores: Sequence[Scores]) -> list[dict[str, Any]]:
        """Chunks before the first event. scores  what is said of the prompts, if it was asked for."""
        return []

    def add(self, index: int, event: Event) -> list[dict[str, Any]]:
        """Enter an event; the chunks that tell of it."""
        choice = self.choices[index]
        choice.tokens += event.token_ids
        scored = scored_event(event) if self.wants_logprobs else []
        parts = self._grow(index, event, scored)
        choice.scored += scored
        ids = {"token_ids": list(event.token_ids)} if self.asked.return_token_ids else {}
        chunks = [self.chunk([{"index": index} | part | (ids if i == 0 else {})]) for i, part in enumerate(parts)]
        if self._tracing is not None and self.asked.stream:
            chunks = chunks or [self.chunk([])]
            chunks[0]["draftgraph"] = self._tracing.round(event)
        return chunks

    def closing(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        """Chunks after the last event."""
        if not self._tells_usage and self._tracing is None:
            return []
        counted = {"usage": usage_of(self.prompts, results, self.per_prompt)} if self._tells_usage else {}
        return [self.chunk([]) | counted | self._about_drafts(results)]

    def whole(self, results: Sequence[Result]) -> dict[str, Any]:
        """The answer in one piece, once all choices are finished."""
        choices = [{"index": index} | self._finished(index) | self._ids(index) for index in range(len(self.choices))]
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            "usage": usage_of(self.prompts, results, self.per_prompt),
            **self._about_drafts(results),
        }

    def _about_drafts(self, results: Sequence[Result]) -> dict[str, Any]:
        """What there is to tell of drafts."""
        told: dict[str, Any] = {"metrics": speculation_of(results)}
        if self._tracing is not None:
            told["draftgraph"] = {"trace": self._tracing.whole(results[0])}
        return told

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            "id": self.id,
            "object": self.chunk_kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }
        if self._counts:
            chunk["usage"] = usage(sum(map(len, self.prompts)), sum(len(choice.tokens) for choice in self.choices))
        elif self._tells_usage:
            chunk["usage"] = None
        return chunk

    @property
    def finish_reasons(self) -> list[str | None]:
        return [choice.finish_reason for choice in self.choices]

    @abstractmethod
    def _grow(self, index: int, event: Event, scored: Sequence[ScoredToken]) -> list[dict[str, Any]]:
        """Enter an event into its choice; what chunks say of the choice. `choice.scored` holds the tokens before it."""

    @abstractmethod
    def _finished(self, index: int) -> dict[str, Any]:
        """What the whole answer says of a choice."""

    def _ids(self, index: int) -> dict[str, Any]:
        if not self.asked.return_token_ids:
            return {}
        prompt = self.prompts[index // self.per_prompt]
        return {"token_ids": self.choices[index].tokens, "prompt_token_ids": list(prompt)}


def asked_logprobs(asked: Any) -> bool:
    """Whether log-probabilities are wanted: `true` in a chat, a number in a completion, 0 included."""
    return asked.logprobs is not None and asked.logprobs is not False
