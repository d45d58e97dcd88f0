"""The choices of one HTTP request: each a request of the engine, their events in the order in which they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from draftgraph.engine.async_stream import AsyncStream
from draftgraph.engine.engine import Engine
from draftgraph.request.result import Event, Result
from draftgraph.sampling.params import SamplingParams
from draftgraph.server.errors import ApiError
from draftgraph.server.gate import Gate
from draftgraph.server.metrics import Metrics


@dataclass(frozen=True)
class Choice:
    """What one choice asks of the engine.

    prompt   token ids. params  how it is sampled. options  how it is drafted.
    """

    prompt: Sequence[int]
    params: SamplingParams
    options: Mapping[str, Any] = field(default_factory=dict)


class Generation(AsyncIterator[tuple[int, Event]]):
    """Events with the index of their choice, until all choices are finished.

    Each choice runs in a task of its own: whoever reads slowly keeps nobody waiting, and what was generated for it is kept until
    it is read. `close` ends all of them at once. `results` has those that are finished.
    """

    def __init__(self, choices: Sequence[Choice], gate: Gate, metrics: Metrics, seconds: float) -> None:
        self.choices, self._gate, self._metrics = choices, gate, metrics
        self.results: list[Result | None] = [None] * len(choices)
        self.began = time.monotonic()
        self.seconds_to_first: float | None = None
        self._seconds = seconds
        self._arrived: asyncio.Queue[tuple[int, Event] | Exception | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self, engine: Engine) -> None:
        """Hand all choices to the engine. Raises what it refuses, and ApiError where the gate is shut."""
        self._gate.enter(self, self.fail)
        try:
            streams = [engine.astream(each.prompt, each.params, **each.options) for each in self.choices]
        except BaseException:
            self._gate.leave(self)
            raise
        self._tasks = [asyncio.create_task(self._pump(index, stream)) for index, stream in enumerate(streams)]
        late = ApiError(504, f"the request took more than {self._seconds:g} s, as long as one may", code="timeout")
        self._alarm = asyncio.get_running_loop().call_later(self._seconds, self.fail, late)

    async def __anext__(self) -> tuple[int, Event]:
        if all(result is not None for result in self.results) and self._arrived.empty():
            raise StopAsyncIteration
        arrived = await self._arrived.get()
        if arrived is None:
            return await self.__anext__()
        if isinstance(arrived, Exception):
            self.close()
            raise arrived
        return arrived

    def fail(self, error: Exception) -> None:
        """End all choices; whoever reads gets the error, after what had come before it."""
        if not self._closed:
            self._stop()
            self._arrived.put_nowait(error)

    def close(self) -> None:
        """End what still runs, and free the place. Does nothing the second time."""
        if not self._closed:
            self._stop()
            self._closed = True
            self._gate.leave(self)

    def _stop(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        for task in self._tasks:
            task.cancel()

    async def _pump(self, index: int, stream: AsyncStream) -> None:
        before: float | None = None
        try:
            async with stream:
                async for event in stream:
                    now = time.monotonic()
                    self._metrics.event(event, now - (before or self.began), is_first=before is None)
                    self.seconds_to_first = self.seconds_to_first or now - self.began
                    before = now
                    self._arrived.put_nowait((index, event))
            self.results[index] = stream.result()
            self._metrics.finished(stream.result(), time.monotonic() - self.began)
            self._arrived.put_nowait(None)
        except Exception as error:
            self._arrived.put_nowait(error)
