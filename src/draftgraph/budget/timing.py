"""Measuring costs on this machine: pass times by rows, and what the engine adds around the passes.

A user waits for it, so that it is bounded: about PASSES_SECONDS (`pass_times`) and ROUNDS_SECONDS, and with a slow model a dozen
passes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from draftgraph.backends.base import CausalLM
from draftgraph.budget.costs import LEAST_DRAFTING, Costs, Drafts, Level
from draftgraph.budget.pass_times import pass_costs, path_seconds, reading
from draftgraph.draft.structures.base import DEEPEST
from draftgraph.request.record import RoundRecord

CONTEXT = 32
"""Tokens before the rows that are timed."""
NEEDED = (1, 2, 4, 8, 3, 17, 1)
"""Numbers of rows that are timed however slow the target is, most telling first; all else is compared with the 1."""
WANTED = (5, 6, 9, 33, 7, 13, 11, 25, 65)
"""Numbers of rows that are timed if there is time."""
DRAFTER_NEEDED, DRAFTER_WANTED = (1, 4), (2, 8, 16, 64)
"""The same of a drafter, which also reads what it has missed."""
ROUNDS_SECONDS = 1.5
"""Time for rounds, about."""
FORWARDS = ("drafter", "target")
FEW, FULL, FULL_CHAIN = 2, 16, 8
"""Nodes of the drafts that tell what passes and nodes cost outside the forwards; full ones also what drafts are accepted."""
TEXTS, COUNTED, LEAST_COUNTED = 3, 32, 6
"""Texts after which drafts are counted, and the tokens of every one, as of what is before it. Fewer than the least count for
nothing."""
BRIEF_PLAIN, BRIEF_FIRST, BRIEF_DRAFTED = 2, 3, 8
"""Tokens of texts that tell only what rounds cost outside the forwards: plain, drafted for the first time, and at most drafted
then. The last token is never drafted."""
BRIEF_TEXT = 2 * (1 + BRIEF_PLAIN)
"""Tokens of the longest text behind which they are drafted. A window that holds no more has no rounds that tell anything."""
BRIEF_SECONDS = 0.3
"""Time for the passes of one row that the last of these texts would take."""
PASSES_PER_TOKEN = 15
"""Passes of one row that take as long as all counted drafts do, per token of their texts."""
SLOW_SECONDS = 0.1
"""Beside a pass that takes longer, what the engine does around it is not worth a measurement."""
Run = Callable[[int, Sequence[int], int, float], Sequence[RoundRecord]]
"""run(budget, prompt, tokens, temperature) -> the rounds of a request with that fixed budget."""


def measure(
    target: CausalLM,
    drafter: CausalLM | None,
    run: Run,
    chains: bool = False,
    run_chains: Run | None = None,
    paths: bool = False,
) -> Costs:
    """The costs of a pair, or of a target whose drafts are looked up (drafter None).

    chains  whether drafts are chains, so that the target is timed with them; else with rows that part at the root.
    run_chains  `run` with chains, where drafts may be chains as well.
    paths   whether drafts branch, and the target reads each of their paths as a sequence of its own. It is timed with
            chains then.

    Drafts are counted after text that the target wrote itself, sampled at temperature 1.
    """
    window = min(model.context_window or 4 * CONTEXT for model in (target, drafter) if model is not None)
    context = max(1, min(CONTEXT, window // 4))
    prompt = [1 % target.vocab_size] * context
    models = {"target": target} | ({} if drafter is None else {"drafter": drafter})
    began, worked = time.perf_counter(), time.thread_time()
    room = window - context
    needed, wanted = (
        {"target": [size for size in target_sizes if size <= room], "drafter": [size for size in sizes if size <= room]}
        for target_sizes, sizes in ((NEEDED, DRAFTER_NEEDED), (WANTED, DRAFTER_WANTED))
    )
    costs = pass_costs(models, prompt, needed, wanted, ["target"] if chains or paths else [])
    share = (time.thread_time() - worked) / (time.perf_counter() - began)
    times, theirs = (
        replace(costs["target"], reading=reading(target, costs["target"], prompt, window)),
        costs.get("drafter"),
    )
    if paths:
        path, path_reading = path_seconds(target, times, prompt, window)
        times = replace(times, path=path, path_reading=path_reading)
    waited = max(0.0, 1.0 - share) if target.device.type == "cpu" else 0.0  # an accelerator may be waited for
    table = Costs(times, theirs, (0.0,) * 3, 0.0, torch.get_num_threads(), context, waited=waited)
    if times(1) > SLOW_SECONDS or window <= BRIEF_TEXT:
        return table
    room = (window - context) // (1 + TEXTS)
    tokens = min(COUNTED, int(ROUNDS_SECONDS / times(1) / PASSES_PER_TOKEN), room)
    if tokens < LEAST_COUNTED:
        return _with_brief_rounds(table, run, prompt[:1], room)
    return _with_rounds(table, run, run_chains, prompt[:1], tokens)


def _with_rounds(table: Costs, run: Run, run_chains: Run | None, start: Sequence[int], tokens: int) -> Costs:
    """The table, with what rounds take outside the forwards and what drafts did, in texts of `tokens` tokens."""
    run(FULL, start, 4, 1.0)  # what is built at a first use is no part of any round
    plain = run(0, start, TEXTS * tokens, 1.0)
    own = [*start, *(record.bonus for record in plain)]
    texts = [own[: 1 + count * tokens] for count in range(1, 1 + TEXTS)]
    drafts = _drafts(run, texts, tokens, 1.0, FULL)
    return replace(
        table,
        overhead=drafts.overhead,
        plain_overhead=_undisturbed(plain[1:]),
        levels=drafts.levels,
        greedy=_drafts(run, texts, tokens, 0.0, FULL),
        chains=_chains(table, run_chains, texts, tokens, 1.0),
        greedy_chains=_chains(table, run_chains, texts, tokens, 0.0),
    )


def _chains(
    table: Costs, run: Run | None, texts: Sequence[Sequence[int]], tokens: int, temperature: float
) -> Drafts | None:
    """The same of chains, with the share of a drafter pass that each of their tokens takes; None without `run`."""
    if run is None:
        return None
    found: list[RoundRecord] = []

    def told(budget: int, prompt: Sequence[int], count: int, temperature: float) -> Sequence[RoundRecord]:
        rounds = run(budget, prompt, count, temperature)
        found.extend(record for record in rounds[1:] if record.num_passes and budget == FULL_CHAIN)
        return rounds

    drafts = _drafts(told, texts, tokens, temperature, FULL_CHAIN)
    if table.drafter is None or not found:
        return drafts
    one = float(np.percentile([record.seconds["drafter"] / record.num_passes for record in found], 25.0))
    return replace(drafts, drafting=min(1.0, max(LEAST_DRAFTING, one / table.drafter(1))))


def _with_brief_rounds(table: Costs, run: Run, start: Sequence[int], room: int) -> Costs:
    """The table, with what a few rounds take outside the forwards, of texts of at most `room` tokens. No drafts are counted."""
    plain = run(0, start, BRIEF_PLAIN, 1.0)
    own = [*start, *(record.bonus for record in plain)]
    text = own if table.drafter else own * 2  # which holds copies of itself
    run(FULL, text, BRIEF_FIRST, 1.0)  # what is built at a first use is no part of any round
    tokens = max(BRIEF_FIRST, min(BRIEF_DRAFTED, int(BRIEF_SECONDS / table.target(1)), room))
    drafted = [record for record in run(FULL, text, tokens, 1.0) if record.tokens] or plain
    alone, together = (min(map(outside, rounds)) for rounds in (plain, drafted))  # others only add to them
    passes = statistics.fmean(record.num_passes for record in drafted)
    more = max(0.0, together - alone)
    overhead = (alone, more / passes, 0.0) if passes else (alone + more, 0.0, 0.0)
    return replace(table, overhead=overhead, plain_overhead=alone)


def _drafts(run: Run, texts: Sequence[Sequence[int]], tokens: int, temperature: float, most: int) -> Drafts:
    """What drafts after `texts` cost outside the forwards, and what became of those of `most` nodes."""
    few = [run(FEW, text, tokens // 2, temperature) for text in texts]
    full = [run(most, text, tokens + DEEPEST, temperature) for text in texts]
    overhead = fit_overhead([rounds[1:] for rounds in (*few, *full)])
    return Drafts(overhead, levels([record for rounds in full for record in _whole(rounds)]))


def _whole(rounds: Sequence[RoundRecord]) -> Sequence[RoundRecord]:
    """Without those whose drafts the end of the text may have cut short; all, if that leaves none."""
    end = rounds[-1].length + rounds[-1].emitted if rounds else 0
    return [record for record in rounds if end - record.length > DEEPEST] or rounds


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
    return not_negative(np.array(parts), np.array([_undisturbed(run) for run in runs if run]))


def _undisturbed(rounds: Sequence[RoundRecord]) -> float:
    """Seconds of a round outside the forwards: the lower quartile, for whatever else the machine does only adds to them."""
    return float(np.percentile([outside(record) for record in rounds], 25.0))


def levels(rounds: Sequence[RoundRecord]) -> tuple[Level, ...]:
    """What drafts did by depth, as means per round."""
    depths = [record.depths() for record in rounds]
    deepest = max((max(nodes, default=0) for nodes in depths), default=0)
    at = [
        [[node for node, its in enumerate(nodes) if its == depth] for nodes in depths]
        for depth in range(1, deepest + 1)
    ]
    return tuple(
        Level(
            statistics.fmean(sum(one.chances[n] for n in nodes) for one, nodes in zip(rounds, level, strict=True)),
            statistics.fmean(record.num_passes >= depth for record in rounds),
            statistics.fmean(map(len, level)),
            statistics.fmean(sum(one.scores[n] for n in nodes) for one, nodes in zip(rounds, level, strict=True)),
        )
        for depth, level in enumerate(at, 1)
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
