"""The events of one request for `async for`. The engine's own scheduler decodes it, so that the event loop stays free."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType

from draftgraph.engine.background import Entry
from draftgraph.request.result import Event, Result


class AsyncStream(AsyncIterator[Event]):
    """The events of one request, as they come. Closing it early, or cancelling a task that waits for it, ends the request:
    before the next round nothing of it is cached. So does dropping it.

    The request runs from the beginning, whether or not its events are read. Tasks of several event loops may share it.
    """

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    async def __anext__(self) -> Event:
        try:
            outcome = await self._entry.next()
        except BaseException:  # the task was cancelled, or its event loop is ending
            self._entry.cancel()
            raise
        if outcome is None:
            raise StopAsyncIteration
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """End the request. Returns when nothing of it is cached; its result so far stays."""
        await self._entry.freed()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._entry.cancel()

    def result(self) -> Result:
        """What the request has produced so far; its `finish_reason` is None until it is finished."""
        result: Result = self._entry.result()
        return result
