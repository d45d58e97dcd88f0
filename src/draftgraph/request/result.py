"""What a request gives back: events while it runs, a result at the end. Frozen."""

from __future__ import annotations

from dataclasses import dataclass, field

from draftgraph.engine.strategy import Choice
from draftgraph.request.record import RoundRecord
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
    choice: Choice
    logprobs: list[float] | None = None
    rounds: tuple[RoundRecord, ...] = field(default=(), repr=False)
