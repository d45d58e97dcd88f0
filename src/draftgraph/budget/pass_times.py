"""Timing passes over many numbers of rows, of one model or of two in turns.

Models and numbers of rows take turns, so that a slow moment hits all of them; models get the same time. Lower quartiles are kept,
for whatever else the machine does only adds. A change of size is a difference of two passes, to which it adds or not: a median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.backends.prefill import read
from draftgraph.budget.costs import Cost
from draftgraph.types import ROOT

PASSES_SECONDS = 1.2
"""Time for passes."""
FEWEST_TURNS, FEWEST_SECONDS = 3, 4.0
"""A number of rows that is timed once may be timed in a slow moment. Where a change of size costs, there are so many turns at
least, if they take no longer than that."""
FAR, FAR_ROWS, FAR_REPEATS = 512, (2, 8), 3
"""Tokens behind which a few passes of a fast target are timed as well, their rows, and how often: the first one is a change."""
PATHS, PATH_ROWS, PATH_REPEATS = 4, 8, 5
"""Paths of a pass beside which one of a single path is timed, the rows of both, and how often."""
REPEATS = 21
"""Passes with one number of rows, at most."""
WIDE, WIDE_TURNS = 24, 2
"""Passes of more rows are timed so often only: narrow passes behind them are slower for a while, and few drafts are so large."""
LONGEST_SECONDS = 20.0
"""Two numbers of rows are enough once passes have taken so long."""
SETTLED_SECONDS, SETTLED_PASSES = 0.1, 2
"""Beside a pass that takes longer, what a change of size costs hardly matters. Passes behind a change that are timed."""
CHANGED_ROWS, CHANGES = 16, 3
"""In the first turn passes of one row and of more than so many rows change places so often."""


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
    begun = time.perf_counter()
    timed: list[_Timed] = []
    try:
        for name, model in models.items():
            timed.append(_Timed(model, prompt, needed[name], wanted[name], name in chained))
        while waiting := [each for each in timed if each.turns == 0 or each.may_go_on(begun)]:
            min(waiting, key=lambda each: each.seconds).turn(begun)  # both get the same time
    finally:
        for each in timed:
            each.close()
    return {name: each.cost() for name, each in zip(models, timed, strict=True)}


@torch.inference_mode()
def reading(model: CausalLM, times: Cost, prompt: Sequence[int], window: int) -> float:
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


@torch.inference_mode()
def path_seconds(model: CausalLM, times: Cost, prompt: Sequence[int], window: int) -> tuple[float, float]:
    """Seconds that a path takes beside the first one behind `prompt`, beyond its rows, and more per token of text before it.

    For models that read every path as a sequence of its own. 0 as of `reading`, and of a text that is too long.
    """
    near, far = len(prompt) + 1, FAR + 1  # behind whole blocks of cells nothing need be copied
    if times(PATH_ROWS) >= SETTLED_SECONDS or window < near + PATH_ROWS:
        return 0.0, 0.0
    least = _per_path(model, prompt, near)
    more = _per_path(model, prompt, far) - least if window >= far + PATH_ROWS else 0.0
    return least, max(0.0, more) / (far - near)


def _per_path(model: CausalLM, prompt: Sequence[int], length: int) -> float:
    """Seconds of a path more behind so many tokens. Both passes have the same rows, and take turns."""
    text = model.open(length + PATH_ROWS)
    try:
        read(model, text, (list(prompt) * (1 + length // len(prompt)))[:length])
        deep = PATH_ROWS // PATHS
        parents = {
            1: range(ROOT, PATH_ROWS - 1),
            PATHS: [ROOT if node % deep == 0 else node - 1 for node in range(PATH_ROWS)],
        }
        feeds = {paths: Feed(text, [], [prompt[0]] * PATH_ROWS, of) for paths, of in parents.items()}
        took: dict[int, list[float]] = {paths: [] for paths in feeds}
        for _ in range(1 + PATH_REPEATS):
            for paths, feed in feeds.items():
                took[paths].append(_one_pass(model, feed))
    finally:
        model.close(text)
    one, many = (statistics.median(seconds[1:]) for seconds in took.values())
    return max(0.0, many - one) / (PATHS - 1)


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

    def may_go_on(self, since: float) -> bool:
        return self.turns < REPEATS and time.perf_counter() < since + self._allowed()

    def _allowed(self) -> float:
        """Seconds for the passes of all models, for as long as this one has been timed so little."""
        few = self.turns < FEWEST_TURNS and self.times and self._settles(min(map(min, self.times.values())))
        return FEWEST_SECONDS if few else PASSES_SECONDS

    def turn(self, since: float) -> None:
        """Time the numbers of rows once each. In the first turn those that are needed are timed when it is late, too."""
        first, begun = self.turns == 0, time.perf_counter()
        for size in self.sizes:
            passed = time.perf_counter() - since
            needed = first and size in self.needed and (len(self.times) < 2 or passed < LONGEST_SECONDS)
            if (passed > self._allowed() and not needed) or (size > WIDE and self.turns >= WIDE_TURNS):
                continue  # a larger size may be needed
            if first or size in self.times:
                self.times.setdefault(size, []).extend(self._seconds(size, first))
        self.turns += 1
        if first and self._settles(min(self.times[min(self.times)])):
            self._change()
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

    def _change(self) -> None:
        """Time changes between two sizes that are far apart, for there may be no second turn: a size just below stays padded."""
        few, many = min(self.times), min((size for size in self.times if size > CHANGED_ROWS), default=max(self.times))
        for size in (few, many) * CHANGES:
            seconds, settled = _one_pass(self.model, self._rows(size)), min(self.times[size])
            if self._settles(settled):
                self.changes.append(seconds - settled)

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
