"""Measuring costs on this machine: pass times by rows, and what the engine adds around the passes.

A user waits for it, so that it is bounded: about PASSES_SECONDS and ROUNDS_SECONDS, and with a slow model a dozen passes.
Models and numbers of rows take turns, so that a slow moment hits all of them; models get the same time. Lower quartiles are kept,
for whatever else the machine does only adds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.backends.prefill import read
from draftgraph.budget.costs import Cost, Costs, Drafts, Level
from draftgraph.draft.structures.base import DEEPEST
from draftgraph.request.record import RoundRecord
from draftgraph.types import ROOT

CONTEXT = 32
"""Tokens before the rows that are timed."""
NEEDED = (1, 2, 4, 8, 3, 17, 1)
"""Numbers of rows that are timed however slow the target is, most telling first; all else is compared with the 1."""
WANTED = (5, 6, 9, 33, 7, 13, 11, 25, 65)
"""Numbers of rows that are timed if there is time."""
DRAFTER_NEEDED, DRAFTER_WANTED = (1, 4), (2, 8, 16, 64)
"""The same of a drafter, which also reads what it has missed."""
FAR, FAR_ROWS, FAR_REPEATS = 512, (2, 8), 3
"""Tokens behind which a few passes of a fast target are timed as well, their rows, and how often: the first one is a change."""
REPEATS = 21
"""Passes with one number of rows, at most."""
WIDE, WIDE_TURNS = 24, 2
"""Passes of more rows are timed so often only: narrow passes behind them are slower for a while, and hardly any draft is so large."""
PASSES_SECONDS, ROUNDS_SECONDS = 1.2, 1.5
"""Time for passes and, about, for rounds."""
LONGEST_SECONDS = 20.0
"""Two numbers of rows are enough once passes have taken so long."""
SETTLED_SECONDS, SETTLED_PASSES = 0.06, 2
"""Beside a pass that takes longer, what a change of size costs hardly matters. Passes behind a change that are timed."""
FORWARDS = ("drafter", "target")
FEW, FULL, FULL_CHAIN = 2, 16, 8
"""Nodes of the drafts that tell what passes and nodes cost outside the forwards; full ones also what drafts are accepted."""
TEXTS, COUNTED, LEAST_COUNTED = 3, 32, 6
"""Texts after which drafts are counted, and the tokens of every one, as of what is before it. Fewer than the least count for
nothing."""
BRIEF_PLAIN, BRIEF_FIRST, BRIEF_DRAFTED = 2, 3, 8
"""Tokens of texts that tell only what rounds cost outside the forwards: plain, drafted for the first time, and at most drafted
then. The last token is never drafted."""
BRIEF_SECONDS = 0.3
"""Time for the passes of one row that the last of these texts would take."""
PASSES_PER_TOKEN = 15
"""Passes of one row that take as long as all counted drafts do, per token of their texts."""
SLOW_SECONDS = 0.1
"""Beside a pass that takes longer, what the engine does around it is not worth a measurement."""
Run = Callable[[int, Sequence[int], int, float], Sequence[RoundRecord]]
"""run(budget, prompt, tokens, temperature) -> the rounds of a request with that fixed budget."""


def measure(
    target: CausalLM, drafter: CausalLM | None, run: Run, chains: bool = False, run_chains: Run | None = None
) -> Costs:
    """The costs of a pair, or of a target whose drafts are looked up (drafter None).

    chains  whether drafts are chains, so that the target is timed with them; else with rows that part at the root.
    run_chains  `run` with chains, where drafts may be chains as well.

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
    costs = pass_costs(models, prompt, needed, wanted, ["target"] if chains else [])
    share = (time.thread_time() - worked) / (time.perf_counter() - began)
    times, theirs = (
        replace(costs["target"], reading=_reading(target, costs["target"], prompt, window)),
        costs.get("drafter"),
    )
    waited = max(0.0, 1.0 - share) if target.device.type == "cpu" else 0.0  # an accelerator may be waited for
    table = Costs(times, theirs, (0.0,) * 3, 0.0, torch.get_num_threads(), context, waited=waited)
    if times(1) > SLOW_SECONDS:
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
        chains=None if run_chains is None else _drafts(run_chains, texts, tokens, 1.0, FULL_CHAIN),
        greedy_chains=None if run_chains is None else _drafts(run_chains, texts, tokens, 0.0, FULL_CHAIN),
    )


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


@torch.inference_mode()
def pass_costs(
    models: Mapping[str, CausalLM],
    prompt: Sequence[int],
    needed: Mapping[str, Sequence[int]],
    wanted: Mapping[str, Sequence[int]],
    chained: Collection[str] = (),
) -> dict[str, Cost]:
    """Seconds of passes over n rows that follow `prompt`.

    needed  by model, numbers of rows that are timed once at least.
    wanted  numbers that are timed as well, again and again, until PASSES_SECONDS are over.
    chained  models whose rows follow one another; those of others part at the root.
    """
    deadline = time.perf_counter() + PASSES_SECONDS
    timed: list[_Timed] = []
    try:
        for name, model in models.items():
            timed.append(_Timed(model, prompt, needed[name], wanted[name], name in chained))
        while waiting := [each for each in timed if each.turns == 0 or each.may_go_on(deadline)]:
            min(waiting, key=lambda each: each.seconds).turn(deadline)  # both get the same time
    finally:
        for each in timed:
            each.close()
    return {name: each.cost() for name, each in zip(models, timed, strict=True)}


@torch.inference_mode()
def _reading(model: CausalLM, times: Cost, prompt: Sequence[int], window: int) -> float:
    """Seconds that a row takes more per token of text before it; 0 where a pass is slow or the window is small."""
    fewer, more = FAR_ROWS
    if times(more) >= SETTLED_SECONDS or window < FAR + more:
        return 0.0
    text = model.open(FAR + more)
    try:
        read(model, text, (list(prompt) * FAR)[:FAR])
        feeds = {rows: Feed(text, [], [prompt[0]] * rows, range(ROOT, rows - 1)) for rows in FAR_ROWS}
        far = {
            rows: statistics.median(_one_pass(model, feed) for _ in range(FAR_REPEATS)) for rows, feed in feeds.items()
        }
    finally:
        model.close(text)
    return max(0.0, (far[more] - far[fewer]) - (times(more) - times(fewer))) / ((more - fewer) * (FAR - len(prompt)))


class _Timed:
    """One model that is timed: seconds by number of rows. Reading the prompt warms it up."""

    def __init__(
        self, model: CausalLM, prompt: Sequence[int], needed: Sequence[int], wanted: Sequence[int], chained: bool
    ) -> None:
        self.chained = chained
        self.model = model
        self.sizes, self.needed = _in_order(model.sizes, needed, wanted)
        self.times: dict[int, list[float]] = {}
        self.changes: list[float] = []
        self.turns, self.seconds = 0, 0.0
        self.text = model.open(len(prompt) + max(self.sizes))
        self.tokens = [token if token < model.vocab_size else 0 for token in prompt]
        read(model, self.text, self.tokens)

    def may_go_on(self, deadline: float) -> bool:
        return self.turns < REPEATS and time.perf_counter() < deadline

    def turn(self, deadline: float) -> None:
        """Time the numbers of rows once each. In the first turn those that are needed are timed after the deadline too."""
        first, begun = self.turns == 0, time.perf_counter()
        self.turns += 1
        for size in self.sizes:
            now = time.perf_counter()
            needed = first and size in self.needed and (len(self.times) < 2 or now < deadline + LONGEST_SECONDS)
            if (now > deadline and not needed) or (size > WIDE and self.turns > WIDE_TURNS):
                continue  # a larger size may be needed
            if first or size in self.times:
                self.times.setdefault(size, []).extend(self._seconds(size, first))
        least = min(self.times)
        if first and self._settles(self.times[least][-1]):  # there may be no second turn
            self.changes.append(_one_pass(self.model, self._rows(least)) - self.times[least][-1])
        self.seconds += time.perf_counter() - begun

    def _seconds(self, size: int, first: bool) -> list[float]:
        """Of passes of this size, once they have settled. What the change of size took is kept, unless it was a first use."""
        rows = self._rows(size)
        changed = _one_pass(self.model, rows)
        if not self._settles(changed):
            return [changed]
        settled = [_one_pass(self.model, rows) for _ in range(SETTLED_PASSES)]
        if not first:
            self.changes.append(changed - settled[-1])
        return settled

    def _settles(self, seconds: float) -> bool:
        """Whether a pass that takes so long costs noticeably more if the last one had another size."""
        return bool(self.model.sizes) and seconds < SETTLED_SECONDS

    def _rows(self, size: int) -> Feed:
        """A draft of this size."""
        parents = range(ROOT, size - 1) if self.chained else [ROOT] * size
        return Feed(self.text, [], (self.tokens * size)[:size], parents)

    def cost(self) -> Cost:
        rows = sorted(self.times)
        low, middle, high = (
            [float(np.percentile(self.times[size], share)) for size in rows] for share in (10.0, 25.0, 90.0)
        )
        change = max(0.0, statistics.median(self.changes)) if self.changes else 0.0
        return Cost(rows, middle, low, high, [len(self.times[size]) for size in rows], self.model.sizes, change)

    def close(self) -> None:
        self.model.close(self.text)


def _in_order(
    sizes: Sequence[int], needed: Sequence[int], wanted: Sequence[int]
) -> tuple[Sequence[int], frozenset[int]]:
    """Numbers of rows in the order in which they are timed, and those of them that are needed.

    sizes  that passes are padded to. Those are timed then, in rising order: a larger size is taken at once, while a smaller one
           is taken for good after several passes only.
    """
    if not sizes:
        return (*needed, *wanted), frozenset(needed)
    first, all_of_them = ({_padded(rows, sizes) for rows in numbers} for numbers in (needed, (*needed, *wanted)))
    return sorted(all_of_them), frozenset(first)


def _padded(rows: int, sizes: Sequence[int]) -> int:
    return next((size for size in sizes if size >= rows), rows)


def _one_pass(model: CausalLM, rows: Feed) -> float:
    """Seconds. On a CPU, time in which others had the core of a pass in one thread does not count."""
    begun, worked = time.perf_counter(), time.process_time()
    model.forward([rows])  # it reads the logits back, so that an accelerator has finished
    seconds, work = time.perf_counter() - begun, time.process_time() - worked
    model.keep(rows.text, ())
    return min(seconds, work) if model.device.type == "cpu" else seconds


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
