"""The stopwatch: seconds of one request by part of its rounds.

    with request.clock("drafting"):
        draft = propose(...)

Parts nest: a drafter's forward inside the drafting counts as "drafter" alone. What several requests share is charged to each
of them by its share of the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from draftgraph.request.stats import PARTS


class Clock:
    """seconds  by part, since they were last taken.
    now      tells the time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._nested: list[float] = []

    def __call__(self, part: str) -> AbstractContextManager[None]:
        """Charge what runs inside to one part."""
        return _Part(self, part)

    @contextmanager
    def away(self) -> Iterator[None]:
        """What runs inside is done for others: this request is charged what `shared` says, and nothing else."""
        self._begin()
        begun = self.now()
        try:
            yield
        finally:
            self._nested.pop()
            if self._nested:
                self._nested[-1] += self.now() - begun

    def take(self) -> dict[str, float]:
        """The seconds so far; from here on they are counted anew."""
        seconds, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return seconds

    def _begin(self) -> None:
        self._nested.append(0.0)

    def _end(self, part: str, seconds: float, share: float = 1.0) -> None:
        """A part is over that took so long, what was nested in it included."""
        self.seconds[part] += (seconds - self._nested.pop()) * share
        if self._nested:
            self._nested[-1] += seconds


class _Part:
    """A part of one request's round; a class, for a generator would take three times as long."""

    __slots__ = ("begun", "clock", "part")

    def __init__(self, clock: Clock, part: str) -> None:
        self.clock, self.part = clock, part

    def __enter__(self) -> None:
        self.clock._nested.append(0.0)  # what `_begin` and `_end` do, without two calls in every part of every round
        self.begun = self.clock.now()

    def __exit__(self, *error: object) -> None:
        clock = self.clock
        seconds = clock.now() - self.begun
        clock.seconds[self.part] += seconds - clock._nested.pop()
        if clock._nested:
            clock._nested[-1] += seconds


def shared(part: str, clocks: Sequence[Clock], rows: Sequence[int]) -> AbstractContextManager[None]:
    """Charge what runs inside to several requests, to each by its share of `rows`. Without any nobody is charged."""
    return clocks[0](part) if len(clocks) == 1 else _shared(part, clocks, rows)


@contextmanager
def _shared(part: str, clocks: Sequence[Clock], rows: Sequence[int]) -> Iterator[None]:
    if not clocks:
        yield
        return
    for clock in clocks:
        clock._begin()
    begun = clocks[0].now()
    try:
        yield
    finally:
        seconds = clocks[0].now() - begun
        for clock, own in zip(clocks, rows, strict=True):
            clock._end(part, seconds, own / sum(rows))
