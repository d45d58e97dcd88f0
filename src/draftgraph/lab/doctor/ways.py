"""The ways to decode that a diagnosis compares with plain decoding, and what became of them in their turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from draftgraph.budget.timing import FORWARDS
from draftgraph.engine.engine import Engine
from draftgraph.lab.turns import Answer, Turn, answer_of
from draftgraph.request.stats import PARTS
from draftgraph.sampling.params import SamplingParams

PLAIN = "plain"


@dataclass(frozen=True)
class Way:
    """A contender: an engine, and the options that its user would write.

    predicted  its predicted speed-up, where there is one.
    """

    name: str
    engine: Engine
    params: SamplingParams
    options: Mapping[str, Any] = field(default_factory=dict)
    predicted: float | None = None

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        return answer_of(self.engine, prompt, self.params, seed)


@dataclass(frozen=True)
class Spread:
    """Median, and 10th and 90th percentile over turns."""

    median: float
    low: float
    high: float
    turns: int


@dataclass(frozen=True)
class Measured:
    """What a way did.

    speedup     over plain decoding in the same turn.
    tokens      per target call.
    drafter     seconds per round in the drafter's passes.
    target      seconds per round in the target's passes.
    own         seconds per round in everything else.
    plain       seconds per token of plain decoding, the median over the same turns.
    """

    name: str
    options: Mapping[str, Any]
    predicted: float | None
    speedup: Spread
    tokens: float
    drafter: float
    target: float
    own: float
    plain: float

    @property
    def break_even(self) -> float:
        """Tokens per target call at which the speed-up would be 1, if rounds cost what they cost here."""
        return self.tokens / self.speedup.median


def summarise(way: Way, turns: Sequence[Turn]) -> Measured:
    timed = [turn.timed[way.name] for turn in turns]
    answers = [one.answer for one in timed]
    plain = [turn.timed[PLAIN].pace for turn in turns]
    rounds = sum(answer.rounds for answer in answers)
    part = {name: sum((answer.parts or {})[name] for answer in answers) / rounds for name in PARTS}
    return Measured(
        way.name,
        way.options,
        way.predicted,
        spread([reference / one.pace for reference, one in zip(plain, timed, strict=True)]),
        sum(len(answer.ids) for answer in answers) / rounds,
        part["drafter"],
        part["target"],
        sum(seconds for name, seconds in part.items() if name not in FORWARDS),
        statistics.median(plain),
    )


def spread(values: Sequence[float]) -> Spread:
    low, middle, high = (float(np.percentile(values, share)) for share in (10.0, 50.0, 90.0))
    return Spread(middle, low, high, len(values))


def unrest(turns: Sequence[Turn]) -> float:
    """How differently plain decoding of the same prompt took over the turns: 90th over 10th percentile; 1 is calm."""
    by_prompt: dict[int, list[float]] = {}
    for turn in turns:
        by_prompt.setdefault(turn.prompt, []).append(turn.timed[PLAIN].pace)
    ratios = [pace / statistics.median(paces) for paces in by_prompt.values() for pace in paces]
    found = spread(ratios)
    return found.high / found.low
