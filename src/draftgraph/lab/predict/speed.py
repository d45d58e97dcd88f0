"""From tokens per target call to tokens per second: what a pass costs on this machine, measured in a few seconds.

A round takes the drafter's passes, one pass of the target over the draft and the token before it, and what the engine adds around
them. All three are measured here: T(n) and D(n) by the number of rows, as medians; the overhead from short runs of the engine
whose clock tells the parts apart, fitted to rounds, passes and nodes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from draftgraph.budget.costs import Costs
from draftgraph.budget.timing import FORWARDS, ROWS, not_negative, pass_costs
from draftgraph.draft.structures.tree import Tree
from draftgraph.engine.engine import Engine
from draftgraph.request.stats import Stats
from draftgraph.sampling.params import SamplingParams

EngineOf = Callable[..., Engine]
"""engine_of(**options) -> an engine for the pair with these options of `Config`."""


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
    drafter = plain.drafter.model
    assert drafter is not None, "a pair has a draft model"
    passes = pass_costs({"target": plain.target, "drafter": drafter}, prompt, {"target": ROWS, "drafter": ROWS})
    overhead, plain_overhead = _overheads(engine_of, prompt, temperature)
    return Costs(passes["target"], passes["drafter"], overhead, plain_overhead, torch.get_num_threads(), len(prompt))


def _overheads(
    engine_of: EngineOf, prompt: Sequence[int], temperature: float
) -> tuple[tuple[float, float, float], float]:
    """Seconds outside the forwards, per round, pass and node (least squares, none below zero), and per plainly decoded token."""
    shapes: Sequence[Mapping[str, Any]] = (
        {"structure": "chain", "budget": 1},
        {"structure": "chain", "budget": 6},
        {"structure": Tree((4,))},
        {"structure": Tree((2, 2, 1, 1))},
    )
    runs = [_run(engine_of(**options), prompt, temperature) for options in ({"budget": 0}, *shapes)]
    plain = statistics.median(map(_outside, runs[0]))
    stats = [one for run in runs[1:] for one in run]
    parts = [[1.0, one.num_drafter_passes / one.num_rounds, one.num_draft_tokens / one.num_rounds] for one in stats]
    return not_negative(np.array(parts), np.array([_outside(one) for one in stats])), plain


def _run(engine: Engine, prompt: Sequence[int], temperature: float) -> list[Stats]:
    params = [SamplingParams(max_new_tokens=24, temperature=temperature, ignore_eos=True, seed=i) for i in range(4)]
    return [engine.generate(list(prompt), one).stats for one in params][1:]


def _outside(stats: Stats) -> float:
    """Seconds per round outside the forwards."""
    return sum(seconds for part, seconds in stats.seconds.items() if part not in FORWARDS) / stats.num_rounds
