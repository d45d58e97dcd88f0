"""From an engine's events to an HTTP response: one JSON object, or a stream of chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from draftgraph.errors import DraftgraphError
from draftgraph.request.result import Event, Result
from draftgraph.server.answer import Answer
from draftgraph.server.asked import NAMES
from draftgraph.server.errors import ApiError, as_api_error
from draftgraph.server.event_stream import EventStream, gone
from draftgraph.server.generation import Choice, Generation, ToScore
from draftgraph.server.service import Service

Made = TypeVar("Made")
NOTHING = ToScore()


async def respond(
    request: Request, service: Service, choices: Sequence[Choice], answer: Answer, to_score: ToScore = NOTHING
) -> Response:
    """Run the choices and answer. Raises ApiError, and what the engine refuses, as long as nothing was sent."""
    generation = Generation(choices, to_score, service.gate, service.metrics, service.settings.request_timeout)
    generation.start(service.engine)
    try:
        if answer.asked.stream:
            first = await unless_gone(request, _first(generation))  # until here, an error is a status
            chunks = _chunks(request, service, generation, answer, first)
            return EventStream(
                chunks, generation.close, service.settings.request_timeout + service.settings.drain_timeout
            )
        whole = await unless_gone(request, _whole(request, service, generation, answer))
    except BaseException:
        generation.close()
        raise
    generation.close()
    return JSONResponse(whole)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Made]) -> Made:
    """What `work` returns. Ends it, with ApiError, if the client goes away before."""
    worker, watcher = asyncio.ensure_future(work), asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            return worker.result()
        raise ApiError(499, "the client went away")
    finally:
        for task in (worker, watcher):
            task.cancel()


async def _first(generation: Generation) -> tuple[int, Event] | None:
    return await anext(generation, None)


async def _whole(request: Request, service: Service, generation: Generation, answer: Answer) -> dict[str, Any]:
    first = await _first(generation)
    answer.opening(generation.scores)
    if first is not None:
        answer.add(*first)
    async for index, event in generation:
        answer.add(index, event)
    return answer.whole(_finish(request, service, generation, answer))


async def _chunks(
    request: Request, service: Service, generation: Generation, answer: Answer, first: tuple[int, Event] | None
) -> AsyncIterator[dict[str, Any]]:
    """All chunks of a stream; an error in its midst is the last one."""
    try:
        for chunk in (*answer.opening(generation.scores), *(answer.add(*first) if first is not None else ())):
            yield chunk
        async for index, event in generation:
            for chunk in answer.add(index, event):
                yield chunk
        for chunk in answer.closing(_finish(request, service, generation, answer)):
            yield chunk
    except Exception as error:
        if not isinstance(error, DraftgraphError):
            service.log.failure(error, id=request.state.id)
        failure = as_api_error(error, NAMES)
        service.metrics.error(failure.status)
        request.state.told["error"] = failure.message if service.log.prompts else failure.code or failure.status
        yield failure.to_dict()


def _finish(request: Request, service: Service, generation: Generation, answer: Answer) -> list[Result]:
    """The results of all choices; what the log will say of them."""
    results = [result for result in generation.results if result is not None]
    told = request.state.told
    told["prompt_tokens"] = sum(map(len, answer.prompts))
    told["completion_tokens"] = sum(len(result.token_ids) for result in results)
    told["finish_reasons"] = answer.finish_reasons
    told["rounds"] = sum(result.stats.num_rounds for result in results)
    told["accepted"] = sum(result.stats.num_accepted_tokens for result in results)
    if generation.seconds_to_first is not None:
        told["seconds_to_first"] = round(generation.seconds_to_first, 4)
    if service.log.prompts and service.engine.tokenizer is not None:
        told["prompts"] = [service.engine.tokenizer.decode(prompt) for prompt in answer.prompts]
        told["texts"] = [result.text for result in results]
    return results
