"""`POST /v1/completions`: prompts as they are, texts or token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from draftgraph.request.result import Event
from draftgraph.server.answer import Answer
from draftgraph.server.asked import drafting, room, sampling, several
from draftgraph.server.body import read_body
from draftgraph.server.errors import ApiError
from draftgraph.server.grammar import grammar_of
from draftgraph.server.logprobs import ScoredToken, completion_logprobs
from draftgraph.server.prompts import prompt_ids
from draftgraph.server.respond import respond
from draftgraph.server.schemas import CompletionRequest
from draftgraph.server.service import Service

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
    params = sampling(asked, max(limit, 1), **logprobs, **grammar_of(asked))
    options = drafting(asked)
    choices = [choice for prompt in prompts for choice in several(prompt, params, options, count)]
    return await respond(request, service, choices, CompletionAnswer(asked, service, prompts, count))


class CompletionAnswer(Answer):
    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"

    def _grow(self, index: int, event: Event, scored: Sequence[ScoredToken]) -> list[dict[str, Any]]:
        choice = self.choices[index]
        logprobs = completion_logprobs(scored, self.texts, len(choice.text)) if self.wants_logprobs else None
        choice.texts.append(event.text)
        choice.finish_reason = event.finish_reason
        if not (event.text or logprobs or event.finish_reason or self.asked.return_token_ids):
            return []
        return [{"text": event.text, "logprobs": logprobs, "finish_reason": event.finish_reason}]

    def _finished(self, index: int) -> dict[str, Any]:
        choice = self.choices[index]
        logprobs = completion_logprobs(choice.scored, self.texts, 0) if self.wants_logprobs else None
        return {"text": choice.text, "logprobs": logprobs, "finish_reason": choice.finish_reason}
