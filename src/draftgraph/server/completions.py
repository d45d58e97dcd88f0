"""`POST /v1/completions`: prompts as they are, texts or token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from draftgraph.engine.scoring import Scores
from draftgraph.request.result import Event
from draftgraph.server.answer import Answer
from draftgraph.server.asked import drafting, room, sampling, several
from draftgraph.server.body import read_body
from draftgraph.server.errors import ApiError
from draftgraph.server.generation import ToScore
from draftgraph.server.grammar import grammar_of
from draftgraph.server.logprobs import ScoredToken, completion_logprobs, scored_prompt
from draftgraph.server.prompts import prompt_ids
from draftgraph.server.respond import NOTHING, respond
from draftgraph.server.schemas import CompletionRequest, Prompts
from draftgraph.server.service import Service
from draftgraph.server.token_texts import Offsets

DEFAULT_TOKENS = 16
"""How long a completion may be where nobody says; OpenAI's number."""


async def completions(request: Request, service: Service) -> Response:
    """Continue prompts. Raises ApiError, and what the engine refuses."""
    asked = await read_body(request, CompletionRequest, service.settings.max_body_bytes)
    service.check_model(asked.model)
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(400, "stream_options needs stream: true beside it", "stream_options", "invalid_value")
    prompts = await asyncio.to_thread(prompt_ids, service.engine, asked.prompt)
    count, limit = asked.n or 1, DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens
    service.check_choices(len(prompts) * count)
    if limit == 0 and not asked.echo:
        raise ApiError(400, "max_tokens=0 gives no text; write more, or echo: true for the prompt", "max_tokens")
    for prompt in prompts:
        room(service.engine, prompt, limit, "max_tokens")
    logprobs = {} if asked.logprobs is None else {"logprobs": True, "top_logprobs": asked.logprobs}
    grammar = await asyncio.to_thread(grammar_of, service.engine, asked)
    params = sampling(asked, max(limit, 1), **logprobs, **grammar)
    options = drafting(asked)
    choices = [choice for prompt in prompts for choice in several(prompt, params, options, count)] if limit else []
    to_score = ToScore(prompts, asked.logprobs or 0) if asked.echo and logprobs else NOTHING
    return await respond(request, service, choices, CompletionAnswer(asked, service, prompts, count), to_score)


class CompletionAnswer(Answer):
    """Texts that continue prompts; with `echo` each begins with its prompt, and log-probabilities with those of the prompt."""

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(
        self, asked: CompletionRequest, service: Service, prompts: Sequence[Sequence[int]], per_prompt: int
    ) -> None:
        super().__init__(asked, service, prompts, per_prompt)
        self._echoed = _texts(asked.prompt, prompts, service.engine.tokenizer) if asked.echo else []
        self._generates = asked.max_tokens != 0
        self._offsets = [Offsets() for _ in self.choices]
        self._told: list[list[dict[str, Any]]] = [[] for _ in self.choices]

    def opening(self, scores: Sequence[Scores]) -> list[dict[str, Any]]:
        if not self._echoed:
            return []
        chunks = []
        for index, choice in enumerate(self.choices):
            place = index // self.per_prompt
            choice.texts.append(self._echoed[place])
            choice.finish_reason = None if self._generates else "length"
            logprobs = self._logprobs(index, scored_prompt(scores[place])) if scores else None
            said = {"text": choice.text, "logprobs": logprobs}
            chunks.append(self.chunk([{"index": index} | said | {"finish_reason": choice.finish_reason}]))
            self._offsets[index] = Offsets(len(choice.text))
        return chunks

    def _grow(self, index: int, event: Event, scored: Sequence[ScoredToken]) -> list[dict[str, Any]]:
        choice = self.choices[index]
        choice.texts.append(event.text)
        choice.finish_reason = event.finish_reason
        if not (event.text or self.wants_logprobs or event.finish_reason or self.asked.return_token_ids):
            return []
        logprobs = self._logprobs(index, scored)
        return [{"text": event.text, "logprobs": logprobs, "finish_reason": event.finish_reason}]

    def _finished(self, index: int) -> dict[str, Any]:
        choice = self.choices[index]
        told = self._told[index]
        logprobs = {name: [each for part in told for each in part[name]] for name in told[0]} if told else None
        return {"text": choice.text, "logprobs": logprobs, "finish_reason": choice.finish_reason}

    def _logprobs(self, index: int, scored: Sequence[ScoredToken]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        self._told[index].append(completion_logprobs(scored, self.texts, self._offsets[index]))
        return self._told[index][-1]


def _texts(prompt: Prompts, ids: Sequence[Sequence[int]], tokenizer: Any) -> list[str]:
    """The prompts as texts: as they were written, or what their ids say."""
    items = prompt if isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int)) else [prompt]
    return [
        item if isinstance(item, str) else tokenizer.decode(each, skip_special_tokens=False)
        for item, each in zip(items, ids, strict=True)
    ]
