"""What a request gives back: events while it runs, a result at the end. Frozen."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from draftgraph.request.record import RoundRecord
from draftgraph.request.state import Strategy
from draftgraph.request.stats import Stats


@dataclass(frozen=True)
class Event:
    """What one round adds to a stream: new text, the new token ids, and which of them were drafted."""

    text: str
    token_ids: tuple[int, ...]
    drafted: tuple[bool, ...]
    finish_reason: str | None = None
    round: RoundRecord | None = None


@dataclass(frozen=True)
class Result:
    """A finished (or, in an error's `partial`, an interrupted) request.

    token_ids      generated ids, the prompt excluded, an end-of-sequence token included.
    finish_reason  "stop" (end-of-sequence token or stop string), "length" (limit or context window), or None if interrupted.
    logprobs       log-probabilities of `token_ids` under the target's own softmax (before warping), if asked for.
    seed           the seed the request ran with, so that it can be run again.
    choice         rule, structure and kind of slots that were used (last), and why.
    """

    text: str
    token_ids: list[int]
    finish_reason: str | None
    stats: Stats
    seed: int
    choice: Strategy
    logprobs: list[float] | None = None
    rounds: tuple[RoundRecord, ...] = field(default=(), repr=False)


class Stream(Iterator[Event]):
    """The events of one request, as they come. Closing it early frees what the request cached."""

    def __init__(self, events: Generator[Event, None, None], result: Callable[[], Result]) -> None:
        self._events, self._result = events, result

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        self._events.close()

    def result(self) -> Result:
        """What the request has produced so far; its `finish_reason` is None until it is finished."""
        return self._result()
