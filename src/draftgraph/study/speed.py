"""From tokens per target call to tokens per second: what a pass costs on this machine, measured in a few seconds.

A round takes the drafter's passes, one pass of the target over the draft and the token before it, and what the engine adds around
them. All three are measured here: T(n) and D(n) by the number of rows, as medians; the overhead from short runs of the engine
whose clock tells the parts apart, fitted to rounds, passes and nodes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from draftgraph.draft.levels import pooled
from draftgraph.engine import Engine
from draftgraph.params import SamplingParams
from draftgraph.stats import Stats
from draftgraph.target.base import CausalLM, Rows
from draftgraph.types import ROOT

ROWS = (1, 2, 4, 8, 16, 32, 64)
REPEATS = 21
PATIENCE = 1.0
"""Seconds at most for one number of rows; slow models get fewer repeats, three at least."""
BUSY = 3.0
"""If the 90th percentile of a pass is so many times its 10th, others were using the machine."""
FORWARDS = ("drafter", "target")
EngineOf = Callable[..., Engine]
"""engine_of(**options) -> an engine for the pair with these options of `Config`."""


@dataclass(frozen=True)
class Cost:
    """Seconds of a forward pass by its rows: medians, and the 10th and 90th percentile over `repeats` passes each."""

    rows: Sequence[int]
    seconds: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    repeats: Sequence[int]

    @cached_property
    def rising(self) -> list[float]:
        """The medians, neighbours pooled until no more rows cost less: what noise says to the contrary is not believed."""
        return [-seconds for seconds in pooled([-seconds for seconds in self.seconds])]

    def __call__(self, rows: float) -> float:
        """Interpolated between the measured numbers of rows; as the last two say beyond them."""
        known = self.rising
        if rows > self.rows[-1]:
            slope = (known[-1] - known[-2]) / (self.rows[-1] - self.rows[-2])
            return known[-1] + slope * (rows - self.rows[-1])
        return float(np.interp(rows, self.rows, known))

    @property
    def busy(self) -> bool:
        """Whether the passes took so different times that their medians say little."""
        return statistics.median(b / a for a, b in zip(self.low, self.high, strict=True)) > BUSY


@dataclass(frozen=True)
class Costs:
    """What a round is made of. overhead  seconds per round, per drafter pass and per node, beside the forwards.

    plain_overhead  seconds per token that plain decoding spends outside the target. threads, context  how it was measured.
    """

    target: Cost
    drafter: Cost
    overhead: tuple[float, float, float]
    plain_overhead: float
    threads: int
    context: int

    @property
    def busy(self) -> bool:
        return self.target.busy or self.drafter.busy

    @property
    def plain(self) -> float:
        """Seconds per token of plain decoding."""
        return self.target(1) + self.plain_overhead

    def round(self, nodes: float, level_rows: Sequence[float]) -> float:
        """Seconds of a round that verifies `nodes` nodes, drafted in passes of so many rows."""
        fixed, per_pass, per_node = self.overhead
        drafting = sum(self.drafter(max(1.0, rows)) for rows in level_rows)
        return drafting + self.target(nodes + 1) + fixed + per_pass * len(level_rows) + per_node * nodes

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"plain": self.plain}


@dataclass(frozen=True)
class Pace:
    """What a draft makes of its tokens per target call.

    speedup     over plain decoding. break_even  tokens per target call at which it would be 1; `tokens` below it lose.
    """

    tokens: float
    seconds: float
    tokens_per_second: float
    speedup: float
    break_even: float


def pace(costs: Costs, tokens: float, nodes: float, level_rows: Sequence[float]) -> Pace:
    seconds = costs.round(nodes, level_rows)
    return Pace(tokens, seconds, tokens / seconds, tokens * costs.plain / seconds, seconds / costs.plain)


def measure_costs(engine_of: EngineOf, prompt: Sequence[int], temperature: float) -> Costs:
    """The costs of a pair behind `prompt` (token ids), on this machine as it is now."""
    plain = engine_of(budget=0)
    drafter: CausalLM = plain.drafter.model  # type: ignore[attr-defined]  # a pair has a ModelDrafter
    target, theirs = pass_costs(plain.target, prompt), pass_costs(drafter, prompt)
    overhead, plain_overhead = _overheads(engine_of, prompt, temperature)
    return Costs(target, theirs, overhead, plain_overhead, torch.get_num_threads(), len(prompt))


@torch.inference_mode()
def pass_costs(model: CausalLM, prompt: Sequence[int], sizes: Sequence[int] = ROWS) -> Cost:
    """Median seconds of a pass over n rows that follow `prompt`, for every n of `sizes`; the numbers take turns."""
    text = model.open(len(prompt) + max(sizes))
    known = [token if token < model.vocab_size else 0 for token in prompt]
    times: dict[int, list[float]] = {size: [] for size in sizes}
    try:
        model.forward([Rows(text, known)])
        for turn in range(REPEATS + 1):
            for size in sizes:
                if turn > 3 and sum(times[size]) > PATIENCE:
                    continue
                begun = time.perf_counter()
                model.forward([Rows(text, [], (known * size)[:size], range(ROOT, size - 1))])
                seconds = time.perf_counter() - begun
                model.keep(text, ())
                if turn:  # the first one warms up
                    times[size].append(seconds)
    finally:
        model.close(text)
    low, middle, high = ([float(np.percentile(times[size], share)) for size in sizes] for share in (10.0, 50.0, 90.0))
    return Cost(tuple(sizes), middle, low, high, [len(times[size]) for size in sizes])


def _overheads(
    engine_of: EngineOf, prompt: Sequence[int], temperature: float
) -> tuple[tuple[float, float, float], float]:
    """Seconds outside the forwards, per round, pass and node (least squares, none below zero), and per plainly decoded token."""
    shapes: Sequence[Mapping[str, Any]] = (
        {"structure": "chain", "budget": 1},
        {"structure": "chain", "budget": 6},
        {"structure": "tree", "branching": (4,)},
        {"structure": "tree", "branching": (2, 2, 1, 1)},
    )
    runs = [_run(engine_of(**options), prompt, temperature) for options in ({"budget": 0}, *shapes)]
    plain = statistics.median(map(_outside, runs[0]))
    stats = [one for run in runs[1:] for one in run]
    parts = [[1.0, one.num_drafter_passes / one.num_rounds, one.num_draft_tokens / one.num_rounds] for one in stats]
    return _not_negative(np.array(parts), np.array([_outside(one) for one in stats])), plain


def _run(engine: Engine, prompt: Sequence[int], temperature: float) -> list[Stats]:
    params = [SamplingParams(max_new_tokens=24, temperature=temperature, ignore_eos=True, seed=i) for i in range(4)]
    return [engine.generate(list(prompt), one).stats for one in params][1:]


def _outside(stats: Stats) -> float:
    """Seconds per round outside the forwards."""
    return sum(seconds for part, seconds in stats.seconds.items() if part not in FORWARDS) / stats.num_rounds


def _not_negative(parts: np.ndarray[Any, Any], seconds: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Least squares without negative coefficients: whatever comes out below zero is left out and the rest fitted again."""
    used = list(range(parts.shape[1]))
    while True:
        found = np.linalg.lstsq(parts[:, used], seconds, rcond=None)[0]
        if len(used) == 1 or found.min() >= 0.0:
            break
        used.pop(int(found.argmin()))
    cost = dict(zip(used, found.tolist(), strict=True))
    return cost.get(0, 0.0), cost.get(1, 0.0), cost.get(2, 0.0)
