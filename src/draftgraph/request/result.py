"""What a request gives back: events while it runs, a result at the end. Frozen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from inspect import GEN_RUNNING, getgeneratorstate

from draftgraph.errors import DraftgraphError
from draftgraph.request.record import RoundRecord
from draftgraph.request.state import Strategy
from draftgraph.request.stats import Stats

Best = tuple[tuple[int, float], ...]
"""The best tokens at one position with their log-probabilities, the best first."""


@dataclass(frozen=True)
class Event:
    """What one round adds to a stream: new text, the new token ids, and which of them were drafted.

    logprobs      of `token_ids`, as in `Result`. top_logprobs  the same.
    """

    text: str
    token_ids: tuple[int, ...]
    drafted: tuple[bool, ...]
    finish_reason: str | None = None
    round: RoundRecord | None = None
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[Best, ...] | None = None


@dataclass(frozen=True)
class Result:
    """A finished (or, in an error's `partial`, an interrupted) request.

    token_ids      generated ids, the prompt excluded, an end-of-sequence token included.
    finish_reason  "stop" (end-of-sequence token or stop string), "length" (limit or context window), or None if interrupted.
    logprobs       log-probabilities of `token_ids` under the target's own softmax (before warping), if asked for.
    top_logprobs   per token of `token_ids` the best ones at its position, with their log-probabilities, if asked for.
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
    top_logprobs: list[Best] | None = None


class Stream(Iterator[Event]):
    """The events of one request, as they come. Closing it early frees what the request cached.

    Threads may share it: each event goes to one of them, and `close` waits for the round that is under way,
    or for the piece of the prompt that is being read.
    """

    def __init__(
        self, events: Generator[Event | None, None, None], result: Callable[[], Result], free: Callable[[], None]
    ) -> None:
        self._events, self._result, self._free = events, result, free
        self._turn = threading.RLock()
        self._closed = False

    def __next__(self) -> Event:
        while (event := self._step()) is None:
            pass
        return event

    def _step(self) -> Event | None:
        """A round; or a piece of the prompt, and None."""
        with self._turn:
            if self._running:
                raise DraftgraphError(
                    "a stream was asked for its next event from within its own round, by stop_when or a logits processor; "
                    "collect the tokens there, and ask from outside"
                )
            try:
                if self._closed:
                    self._events.close()
                event = next(self._events)
                if self._closed:  # in the midst of the step: by another thread, or by the request's own callback
                    self._events.close()
                return event
            except BaseException:  # an interrupt may also have struck while the request was freeing what it holds
                self._free()
                raise

    def close(self) -> None:
        self._closed = True  # before its turn: whoever reads a long prompt stops at the next piece
        try:
            with self._turn:
                if not self._running:
                    self._events.close()
        finally:
            if not self._running:
                self._free()

    @property
    def _running(self) -> bool:
        """Whether a round is under way: in another thread, or in this one, which calls from within it."""
        return getgeneratorstate(self._events) == GEN_RUNNING

    def result(self) -> Result:
        """What the request has produced so far; its `finish_reason` is None until it is finished."""
        return self._result()
