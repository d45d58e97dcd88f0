"""Plain decoding beside ways to speculate, whole requests in turns: what a machine does at one time weighs on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from draftgraph.budget.timing import FORWARDS
from draftgraph.engine.engine import Engine
from draftgraph.request.stats import PARTS
from draftgraph.sampling.params import SamplingParams

MIN_TURNS = 3
"""Turns that are taken whatever the time limit says; a spread needs them."""
PLAIN = "plain"


@dataclass(frozen=True)
class Arm:
    """A way to decode. predicted  its predicted speed-up, where there is one."""

    name: str
    engine: Engine
    options: Mapping[str, Any]
    predicted: float | None = None


@dataclass(frozen=True)
class Spread:
    """Median, and 10th and 90th percentile over turns."""

    median: float
    low: float
    high: float
    turns: int


@dataclass(frozen=True)
class Run:
    """One request of one arm: wall seconds (`on_core` of them with a core), its tokens, its rounds and their seconds by part."""

    prompt: int
    seconds: float
    tokens: int
    rounds: int
    parts: Mapping[str, float]
    on_core: float

    @property
    def pace(self) -> float:
        """Seconds per token."""
        return self.seconds / self.tokens


@dataclass(frozen=True)
class Measured:
    """What an arm did.

    speedup     over plain decoding in the same turn. tokens  per target call.
    break_even  tokens per target call at which the speed-up would be 1, its rounds costing what they cost here.
    drafter, target, own   seconds per round: both models' passes, and everything else.
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
        return self.tokens / self.speedup.median


Turn = Mapping[str, Run]


def take_turns(
    arms: Sequence[Arm], prompts: Sequence[Sequence[int]], params: SamplingParams, seconds: float, first: int = 0
) -> list[Turn]:
    """Turns for about `seconds`, MIN_TURNS at least. In a turn every arm continues the same prompt with the same seed.

    first  the number of the first turn: prompts and samples go on from there. The order of the arms rotates.
    """
    turns: list[Turn] = []
    deadline = time.perf_counter() + seconds
    while len(turns) < MIN_TURNS or time.perf_counter() < deadline:
        number = first + len(turns)
        where = number % len(prompts)
        shift = number % len(arms)
        turns.append(
            {
                arm.name: run(arm.engine, prompts[where], replace(params, sample=number), where)
                for arm in (*arms[shift:], *arms[:shift])
            }
        )
    return turns


def run(engine: Engine, prompt: Sequence[int], params: SamplingParams, where: int = 0) -> Run:
    begun, core = time.perf_counter(), time.thread_time()
    stats = engine.generate(list(prompt), params).stats
    seconds, on_core = time.perf_counter() - begun, time.thread_time() - core
    return Run(where, seconds, stats.num_output_tokens, stats.num_rounds, stats.seconds, on_core)


def summarise(arm: Arm, turns: Sequence[Turn]) -> Measured:
    runs = [turn[arm.name] for turn in turns]
    plain = [turn[PLAIN].pace for turn in turns]
    rounds = sum(one.rounds for one in runs)
    part = {name: sum(one.parts[name] for one in runs) / rounds for name in PARTS}
    return Measured(
        arm.name,
        arm.options,
        arm.predicted,
        spread([reference / one.pace for reference, one in zip(plain, runs, strict=True)]),
        sum(one.tokens for one in runs) / rounds,
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
        by_prompt.setdefault(turn[PLAIN].prompt, []).append(turn[PLAIN].pace)
    ratios = [pace / statistics.median(paces) for paces in by_prompt.values() for pace in paces]
    found = spread(ratios)
    return found.high / found.low


def share_of_core(turns: Sequence[Turn]) -> float:
    """The share of the time in which this thread had a core: 1 if nobody else wanted it."""
    runs = [one for turn in turns for one in turn.values()]
    return sum(one.on_core for one in runs) / sum(one.seconds for one in runs)
