"""The events of one request for `async for`: rounds run in a thread, so that the event loop stays free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType

from draftgraph.request.result import Event, Result, Stream


class AsyncStream(AsyncIterator[Event]):
    """The events of one request, as they come. Closing it early, or cancelling its task, frees what the request cached."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def __anext__(self) -> Event:
        event = await asyncio.to_thread(next, self._stream, None)
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        await asyncio.to_thread(self._stream.close)

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def result(self) -> Result:
        """What the request has produced so far; its `finish_reason` is None until it is finished."""
        return self._stream.result()
