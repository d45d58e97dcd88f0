"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import uuid
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
from draftgraph.server.grammar import grammar_of
from draftgraph.server.logprobs import ScoredToken, chat_logprobs
from draftgraph.server.prompts import chat_ids
from draftgraph.server.respond import respond
from draftgraph.server.schemas import ChatRequest, ChosenTool
from draftgraph.server.service import Service
from draftgraph.server.tool_calls import ToolCall, ToolReader


async def chat_completions(request: Request, service: Service) -> Response:
    """Answer a conversation. Raises ApiError, and what the engine refuses."""
    asked = await read_body(request, ChatRequest, service.settings.max_body_bytes)
    service.check_model(asked.model)
    _refuse_contradictions(asked)
    tools = [] if asked.tool_choice == "none" else asked.tools or []
    prompt = await asyncio.to_thread(chat_ids, service.engine, asked.messages, tools, asked.chat_template_kwargs)
    named = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
    limit = room(service.engine, prompt, getattr(asked, named), named if getattr(asked, named) else "messages")
    grammar = await asyncio.to_thread(grammar_of, service.engine, asked, tools, asked.tool_choice)
    params = sampling(asked, limit, **_logprobs(asked), **grammar)
    count = asked.n or 1
    service.check_choices(count)
    answer = ChatAnswer(asked, service, [prompt], count, [tool.function.name for tool in tools])
    return await respond(request, service, several(prompt, params, drafting(asked), count), answer)


class ChatAnswer(Answer):
    """tools  names of the tools that may be called."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(
        self,
        asked: ChatRequest,
        service: Service,
        prompts: Sequence[Sequence[int]],
        per_prompt: int,
        tools: Sequence[str],
    ) -> None:
        super().__init__(asked, service, prompts, per_prompt)
        self._readers = [ToolReader(tools) if tools else None for _ in self.choices]
        self._calls: list[list[dict[str, Any]]] = [[] for _ in self.choices]

    def opening(self, scores: Sequence[Scores]) -> list[dict[str, Any]]:
        begun = {"role": "assistant", "content": ""}
        return [
            self.chunk([{"index": index, "delta": begun, "logprobs": None, "finish_reason": None}])
            for index in range(len(self.choices))
        ]

    def _grow(self, index: int, event: Event, scored: Sequence[ScoredToken]) -> list[dict[str, Any]]:
        choice, reader = self.choices[index], self._readers[index]
        text = event.text if reader is None else reader.push(event.text)
        if reader is not None and event.finish_reason is not None:
            rest, calls = reader.finish()
            text += rest
            self._calls[index] = [_called(call) for call in calls]
        choice.texts.append(text)
        choice.finish_reason = event.finish_reason
        if self._calls[index] and event.finish_reason == "stop":
            choice.finish_reason = "tool_calls"
        return self._deltas(index, text, event, scored)

    def _deltas(self, index: int, text: str, event: Event, scored: Sequence[ScoredToken]) -> list[dict[str, Any]]:
        logprobs = chat_logprobs(scored, self.texts) if self.wants_logprobs else None
        parts: list[dict[str, Any]] = []
        if text or logprobs is not None or self.asked.return_token_ids:
            parts.append({"delta": {"content": text}, "logprobs": logprobs, "finish_reason": None})
        for place, call in enumerate(self._calls[index]):
            parts.append({"delta": {"tool_calls": [{"index": place} | call]}, "logprobs": None, "finish_reason": None})
        if event.finish_reason is not None:
            parts.append({"delta": {}, "logprobs": None, "finish_reason": self.choices[index].finish_reason})
        return parts

    def _finished(self, index: int) -> dict[str, Any]:
        choice = self.choices[index]
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if self._calls[index]:
            message |= {"content": choice.text or None, "tool_calls": self._calls[index]}
        logprobs = chat_logprobs(choice.scored, self.texts) if self.wants_logprobs else None
        return {"message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}


def _called(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _logprobs(asked: ChatRequest) -> dict[str, Any]:
    """What SamplingParams is told about log-probabilities."""
    return {"logprobs": True, "top_logprobs": asked.top_logprobs or 0} if asked.logprobs else {}


def _refuse_contradictions(asked: ChatRequest) -> None:
    """Raise ApiError for fields that say different things, or that need another one."""
    if asked.max_tokens is not None and asked.max_completion_tokens not in (None, asked.max_tokens):
        raise ApiError(
            400, "max_tokens and max_completion_tokens differ; write one of them", "max_tokens", "invalid_value"
        )
    if asked.top_logprobs and not asked.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true beside it", "top_logprobs", "invalid_value")
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(400, "stream_options needs stream: true beside it", "stream_options", "invalid_value")
    if asked.tool_choice not in (None, "none") and not asked.tools:
        raise ApiError(400, "tool_choice needs tools beside it", "tool_choice", "invalid_value")
    names = [tool.function.name for tool in asked.tools or ()]
    if isinstance(asked.tool_choice, ChosenTool) and asked.tool_choice.function.name not in names:
        raise ApiError(400, "tool_choice names a function that is not among the tools", "tool_choice", "invalid_value")
    if len(set(names)) != len(names):
        raise ApiError(400, "two tools have the same name", "tools", "invalid_value")
