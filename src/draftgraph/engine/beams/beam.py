"""A beam, and those that are finished: what ends a request, and what it returns. As in transformers' `_beam_search`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Beam:
    """A text that is going on or has ended.

    tokens  output so far. score  sum of the log-probabilities of its tokens. count  how many of the drawn beams it is.
    """

    tokens: tuple[int, ...]
    score: float
    count: int = 1


@dataclass(frozen=True)
class Ended:
    """A finished beam. score  its sum of log-probabilities with the length penalty. reason  "stop" or "length"."""

    tokens: tuple[int, ...]
    score: float
    reason: str


@dataclass(frozen=True)
class Ending:
    """What ends beams and requests.

    num_beams, length_penalty, early_stopping  see `BeamParams`. limit  tokens of an output at most. eos  ids that end a beam.
    """

    num_beams: int
    length_penalty: float
    early_stopping: bool | str
    limit: int
    eos: frozenset[int]

    def reason(self, tokens: Sequence[int]) -> str | None:
        """Why a beam has ended; None if it goes on."""
        if tokens[-1] in self.eos:
            return "stop"
        return "length" if len(tokens) >= self.limit else None

    def penalised(self, score: float, length: int) -> float:
        return float(score / length**self.length_penalty)


class Finished:
    """The best `num_beams` finished beams of a request, the best first."""

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
        self.beams: list[Ended] = []

    def add(self, beams: Sequence[Beam]) -> None:
        """Take in beams that have ended."""
        for beam in beams:
            reason = self.ending.reason(beam.tokens)
            assert reason is not None, "it goes on"
            score = self.ending.penalised(beam.score, len(beam.tokens))
            self.beams += [Ended(beam.tokens, score, reason)] * beam.count
        self.beams = sorted(self.beams, key=lambda ended: -ended.score)[: self.ending.num_beams]

    def closed(self, running: Sequence[Beam]) -> bool:
        """Whether the request is over, with these beams still going on: all of them are of one length."""
        if not running:
            return True
        if len(self.beams) < self.ending.num_beams:
            return False
        if self.ending.early_stopping is True:
            return True
        hopeful = self.ending.early_stopping == "never" and self.ending.length_penalty > 0.0
        length = self.ending.limit if hopeful else len(running[0].tokens)
        best = max(beam.score for beam in running)
        return self.ending.penalised(best, length) <= self.beams[-1].score
