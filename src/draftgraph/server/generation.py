"""The choices of one HTTP request: each a request of the engine, their events in the order in which they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from draftgraph.engine.async_stream import AsyncStream
from draftgraph.engine.engine import Engine
from draftgraph.engine.scoring import Scores
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


@dataclass(frozen=True)
class ToScore:
    """Prompts whose own tokens are to be scored, and how many of the likeliest tokens are wanted beside each."""

    prompts: Sequence[Sequence[int]] = ()
    top: int = 0


class Generation(AsyncIterator[tuple[int, Event]]):
    """Events with the index of their choice, until all choices are finished.

    Each choice runs in a task of its own: whoever reads slowly keeps nobody waiting, and what was generated for it is kept until
    it is read. `close` ends all of them at once. `results` has those that are finished, `scores` what is said of the prompts,
    before the first event comes.
    """

    def __init__(
        self, choices: Sequence[Choice], to_score: ToScore, gate: Gate, metrics: Metrics, seconds: float
    ) -> None:
        self.choices, self._to_score, self._gate, self._metrics = choices, to_score, gate, metrics
        self.results: list[Result | None] = [None] * len(choices)
        self.scores: list[Scores] = []
        self.began = time.monotonic()
        self.seconds_to_first: float | None = None
        self._seconds = seconds
        self._scored = asyncio.Event()
        self._arrived: asyncio.Queue[tuple[int, Event] | Exception | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self, engine: Engine) -> None:
        """Hand all choices to the engine. Raises what it refuses, and ApiError where the gate is shut."""
        self._gate.enter(self, self.fail)
        try:
            self._tasks.append(asyncio.create_task(self._score(engine)))
            for index, each in enumerate(self.choices):
                stream = engine.astream(each.prompt, each.params, **each.options)
                self._tasks.append(asyncio.create_task(self._pump(index, stream)))
        except BaseException:
            self.close()
            raise
        late = ApiError(504, f"the request took more than {self._seconds:g} s, as long as one may", code="timeout")
        self._alarm = asyncio.get_running_loop().call_later(self._seconds, self.fail, late)

    async def __anext__(self) -> tuple[int, Event]:
        while not (self._is_over and self._arrived.empty()):
            arrived = await self._arrived.get()
            if isinstance(arrived, Exception):
                self.close()
                raise arrived
            if arrived is not None:
                return arrived
        raise StopAsyncIteration

    @property
    def _is_over(self) -> bool:
        return self._scored.is_set() and all(result is not None for result in self.results)

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

    async def _score(self, engine: Engine) -> None:
        """Score the prompts. One that is being read is read to its end, whatever happens."""
        try:
            for prompt in self._to_score.prompts:
                self.scores.append(await asyncio.to_thread(engine.score, prompt, self._to_score.top))
        except Exception as error:
            self._arrived.put_nowait(error)
        else:
            self._scored.set()
            self._arrived.put_nowait(None)

    async def _pump(self, index: int, stream: AsyncStream) -> None:
        before: float | None = None
        try:
            async with stream:
                await self._scored.wait()
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
