"""From runs to rows: medians, paired ratios with intervals, counts. No clock and no model here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from draftgraph.lab.bench.contenders import PLAIN

RESAMPLES, SEED = 2000, 0
INTERVAL = 0.95
ENOUGH = 6
"""Prompts that a verdict needs: of fewer, all can lie on one side of 1 by chance more often than one time in twenty (2 / 2^n)."""


@dataclass(frozen=True)
class Run:
    """One contender, one prompt, once. prompt  its index.

    place    position in its turn. seconds  wall time of the whole call; on_core  of them, the calling thread had a core.
    tokens   new ids. rounds  target calls. nodes  drafted rows that the target computed.
    same     whether the ids are those of transformers plain, at temperature 0; None at others.
    """

    temperature: float
    contender: str
    prompt: int
    repeat: int
    place: int
    seconds: float
    on_core: float
    tokens: int
    rounds: int
    nodes: int
    same: bool | None

    @property
    def pace(self) -> float:
        """Seconds per token."""
        return self.seconds / self.tokens


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as transformers plain: the median over prompts of the medians over their turns.

    low, high  95 % bootstrap interval of that median, prompts resampled. p10, p90  of all turns. prompts  how many there were.
    """

    median: float
    low: float
    high: float
    p10: float
    p90: float
    prompts: int

    @property
    def verdict(self) -> str:
        """ "wins" or "loses" if the whole interval says so, else "even"; "unsure" if the prompts are too few to say."""
        if self.prompts < ENOUGH:
            return "unsure"
        if self.low > 1.0:
            return "wins"
        return "loses" if self.high < 1.0 else "even"


@dataclass(frozen=True)
class Row:
    """What one contender did at one temperature. task  None is all of them.

    tokens_per_second  median over prompts of the medians over repeats.
    acceptance         tokens per target call, mean over prompts; acceptance_error  its standard error.
    target_calls, nodes, tokens, runs, prompts   counts over all runs.
    same               prompts whose ids were those of transformers plain in every repeat; None at temperatures > 0.
    """

    temperature: float
    task: str | None
    contender: str
    tokens_per_second: float
    ratio: Ratio
    acceptance: float
    acceptance_error: float
    target_calls: int
    nodes: int
    tokens: int
    runs: int
    prompts: int
    same: int | None


def summarise(runs: Sequence[Run], tasks: Sequence[str]) -> list[Row]:
    """A row per temperature, task and contender, in the order of their first appearance; all tasks together come first.

    tasks  of the prompts, by their index. Runs without a run of transformers plain in their turn do not count.
    """
    plain = {(run.temperature, run.prompt, run.repeat): run for run in runs if run.contender == PLAIN}
    paired = [run for run in runs if (run.temperature, run.prompt, run.repeat) in plain]
    rows = []
    for temperature in dict.fromkeys(run.temperature for run in paired):
        mine = [run for run in paired if run.temperature == temperature]
        seen = list(dict.fromkeys(tasks[run.prompt] for run in mine))
        for task in (None, *(seen if len(seen) > 1 else ())):
            chosen = [run for run in mine if task is None or tasks[run.prompt] == task]
            for contender in dict.fromkeys(run.contender for run in chosen):
                its = [run for run in chosen if run.contender == contender]
                rows.append(_row(temperature, task, contender, its, plain))
    return rows


def _row(
    temperature: float,
    task: str | None,
    contender: str,
    runs: Sequence[Run],
    plain: Mapping[tuple[float, int, int], Run],
) -> Row:
    by_prompt: dict[int, list[Run]] = {}
    for run in runs:
        by_prompt.setdefault(run.prompt, []).append(run)
    groups = list(by_prompt.values())
    ratios = [[plain[temperature, run.prompt, run.repeat].pace / run.pace for run in group] for group in groups]
    lengths = [sum(run.tokens for run in group) / sum(run.rounds for run in group) for group in groups]
    return Row(
        temperature,
        task,
        contender,
        1.0 / statistics.median(statistics.median(run.pace for run in group) for group in groups),
        paired_ratio(ratios),
        statistics.fmean(lengths),
        statistics.stdev(lengths) / math.sqrt(len(lengths)) if len(lengths) > 1 else 0.0,
        sum(run.rounds for run in runs),
        sum(run.nodes for run in runs),
        sum(run.tokens for run in runs),
        len(runs),
        len(groups),
        sum(all(run.same for run in group) for group in groups) if temperature == 0 else None,
    )


def paired_ratio(by_prompt: Sequence[Sequence[float]]) -> Ratio:
    """The ratio of paired times, given for every prompt and turn.

    Turns of one prompt are no independent evidence, so prompts are resampled, whole.
    """
    medians = np.array([statistics.median(ratios) for ratios in by_prompt])
    drawn = np.random.default_rng(SEED).integers(0, len(medians), (RESAMPLES, len(medians)))
    tail = 50.0 * (1.0 - INTERVAL)
    low, high = np.percentile(np.median(medians[drawn], axis=1), [tail, 100.0 - tail])
    p10, p90 = np.percentile([ratio for ratios in by_prompt for ratio in ratios], [10.0, 90.0])
    return Ratio(float(np.median(medians)), float(low), float(high), float(p10), float(p90), len(medians))
