"""Measuring costs on this machine: pass times by rows, and what the engine adds around the passes.

Models and numbers of rows take turns, so that a slow moment hits all of them, and medians are kept. A small model takes a few
seconds; with a large one every number of rows gets two passes, and those that cost too much are left to extrapolation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.backends.prefill import read
from draftgraph.budget.costs import Cost, Costs, Greedy, Level
from draftgraph.request.record import RoundRecord
from draftgraph.types import ROOT

ROWS = (1, 2, 4, 8, 16, 32, 64)
REPEATS = 21
PATIENCE = 1.0
"""Seconds at most for one number of rows; slow models get fewer repeats, two at least."""
FORWARDS = ("drafter", "target")
CONTEXT = 64
"""Tokens before the rows that are timed for the engine's own use."""
BRIEF = 0.12
"""PATIENCE where a user waits for the first token."""
FEW, FULL = 2, 16
"""Nodes of the drafts that tell what passes and nodes cost outside the forwards; FULL ones also what drafts are accepted."""
COUNTED = 32
"""Tokens of every text behind which drafts are counted, and of the text before them."""
TOO_SLOW = 4.0
"""Seconds of a pass above which more rows are not tried."""
WAIT = 0.8
"""Seconds of plain decoding that such a text may take; slow models get shorter ones."""
Run = Callable[[int, Sequence[int], int, float], Sequence[RoundRecord]]
"""run(budget, prompt, tokens, temperature) -> the rounds of a request with that fixed budget."""


def measure(target: CausalLM, drafter: CausalLM | None, run: Run) -> Costs:
    """The costs of a pair, or of a target whose drafts are looked up (drafter None).

    Drafts are counted behind text that the target wrote itself, sampled at temperature 1.
    """
    window = min(model.context_window or 4 * CONTEXT for model in (target, drafter) if model is not None)
    context = max(1, min(CONTEXT, window // 4))
    prompt = [1 % target.vocab_size] * context
    models = {"target": target} | ({} if drafter is None else {"drafter": drafter})
    sizes = {"target": [nodes + 1 for nodes in (0, *ROWS)], "drafter": (1, 2, 4, 8, 16, context)}
    costs = pass_costs(models, prompt, sizes, BRIEF)
    times, theirs = costs["target"], costs.get("drafter")
    tokens = max(4, min(COUNTED, int(WAIT / times(1)), (window - context) // 2))
    run(FULL, prompt[:1], 4, 1.0)  # what is built at a first use is no part of any round
    plain = run(0, prompt[:1], 2 * tokens, 1.0)
    own = [*prompt[:1], *(record.bonus for record in plain)]
    texts = [own[: 1 + tokens], own]
    overhead, counted = _drafts(run, texts, tokens, 1.0)
    greedy = Greedy(*_drafts(run, texts, tokens, 0.0))
    plain_overhead = statistics.median(outside(record) for record in plain[1:])
    return Costs(times, theirs, overhead, plain_overhead, torch.get_num_threads(), context, counted, greedy)


def _drafts(
    run: Run, texts: Sequence[Sequence[int]], tokens: int, temperature: float
) -> tuple[tuple[float, float, float], tuple[Level, ...]]:
    """What drafts behind `texts` cost outside the forwards, and what became of the FULL ones."""
    few, full = ([run(budget, text, tokens, temperature) for text in texts] for budget in (FEW, FULL))
    return fit_overhead([rounds[1:] for rounds in (*few, *full)]), levels(
        [record for rounds in full for record in rounds]
    )


@torch.inference_mode()
def pass_costs(
    models: Mapping[str, CausalLM],
    prompt: Sequence[int],
    sizes: Mapping[str, Sequence[int]],
    patience: float = PATIENCE,
) -> dict[str, Cost]:
    """Median seconds of passes over n rows that follow `prompt`, for every n of a model's `sizes`.

    Everything takes turns: a slow moment of the machine hits all numbers of rows of all models, and leaves their ratios alone.
    patience  seconds at most for one number of rows.
    """
    timed: dict[str, _Timed] = {}
    try:
        for name, model in models.items():
            timed[name] = _Timed(model, prompt, sizes[name])
        for _ in range(REPEATS + 1):
            for one in timed.values():
                one.turn(patience)
    finally:
        for one in timed.values():
            one.close()
    return {name: one.cost() for name, one in timed.items()}


class _Timed:
    """One model that is timed: seconds by number of rows."""

    def __init__(self, model: CausalLM, prompt: Sequence[int], sizes: Sequence[int]) -> None:
        self.model, self.turns = model, 0
        self.times: dict[int, list[float]] = {size: [] for size in sorted(set(sizes))}
        self.text = model.open(len(prompt) + max(self.times))
        self.tokens = [token if token < model.vocab_size else 0 for token in prompt]
        read(model, self.text, self.tokens)

    def turn(self, patience: float) -> None:
        """Time every number of rows once; the first turn warms up, and leaves out what takes too long."""
        for size, times in list(self.times.items()):
            if self.turns > 2 and sum(times) > patience:
                continue
            fed = (self.tokens * size)[:size]
            seconds = _one_pass(self.model, Feed(self.text, [], fed, range(ROOT, size - 1)))
            if self.turns:
                times.append(seconds)
            elif seconds > TOO_SLOW and size > 2:
                self.times = {smaller: [] for smaller in self.times if smaller < size}
                break
        self.turns += 1

    def cost(self) -> Cost:
        low, middle, high = (
            [float(np.percentile(times, share)) for times in self.times.values()] for share in (10.0, 50.0, 90.0)
        )
        return Cost(tuple(self.times), middle, low, high, [len(times) for times in self.times.values()])

    def close(self) -> None:
        self.model.close(self.text)


def _one_pass(model: CausalLM, rows: Feed) -> float:
    begun = time.perf_counter()
    model.forward([rows])  # it reads the logits back, so that an accelerator has finished
    seconds = time.perf_counter() - begun
    model.keep(rows.text, ())
    return seconds


def outside(record: RoundRecord) -> float:
    """Seconds of a round outside the forwards."""
    return sum(seconds for part, seconds in record.seconds.items() if part not in FORWARDS)


def fit_overhead(runs: Sequence[Sequence[RoundRecord]]) -> tuple[float, float, float]:
    """Seconds outside the forwards per round, pass and node: least squares over runs, none below zero."""
    parts = [
        [1.0, statistics.fmean(r.num_passes for r in run), statistics.fmean(len(r.tokens) for r in run)]
        for run in runs
        if run
    ]
    return not_negative(np.array(parts), np.array([statistics.median(map(outside, run)) for run in runs if run]))


def levels(rounds: Sequence[RoundRecord]) -> tuple[Level, ...]:
    """What drafts did by depth, as means per round. A round that the text's end cut short counts as it was verified."""
    depths = [record.depths() for record in rounds]
    deepest = max((max(nodes, default=0) for nodes in depths), default=0)
    return tuple(
        Level(
            statistics.fmean(len(record.path) >= depth for record in rounds),
            statistics.fmean(record.num_passes >= depth for record in rounds),
            statistics.fmean(nodes.count(depth) for nodes in depths),
            statistics.fmean(
                sum(score for score, at in zip(record.scores, nodes, strict=True) if at == depth)
                for record, nodes in zip(rounds, depths, strict=True)
            ),
        )
        for depth in range(1, deepest + 1)
    )


def not_negative(parts: np.ndarray[Any, Any], seconds: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Least squares without negative coefficients: whatever comes out below zero is left out and the rest fitted again."""
    used = list(range(parts.shape[1]))
    while True:
        found = np.linalg.lstsq(parts[:, used], seconds, rcond=None)[0]
        if len(used) == 1 or found.min() >= 0.0:
            break
        used.pop(int(found.argmin()))
    cost = dict(zip(used, found.tolist(), strict=True))
    return cost.get(0, 0.0), cost.get(1, 0.0), cost.get(2, 0.0)
