"""Wall-clock ratios of the published order to a chain and to a budgeted tree. Interleaved, like bench/run.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from bench.clock import Run, measure
from bench.contenders import Contender, Ours, Task
from bench.pairs import MissingPairError, Pair, code_folders, humaneval_prompts, load_model, load_pair, spread

BASELINES = ("plain", "chain 4", "tree 16")
"""Whose times everybody's are compared with."""
ABOUT = {
    "bundled": "the bundled pair, beginnings of Python functions",
    "code": "code10m with its 1m drafter, HumanEval prompts",
}
"""The pairs that are big enough for a time to mean something."""


@dataclass(frozen=True)
class Pace:
    """One contender on one pair at one temperature.

    ms_per_token  median over runs. faster  by baseline: its time / this one's in the same turn; median, 10th, 90th percentile.
    length        tokens per target call, over all runs. turns  compared.
    """

    pair: str
    temperature: float
    contender: str
    ms_per_token: float
    faster: dict[str, tuple[float, float, float]]
    length: float
    turns: int


def contenders(pair: Pair, task: Task) -> list[Contender]:
    """The published order with and without merging, and what it has to beat."""
    options: dict[str, dict[str, Any]] = {
        "plain": {"budget": 0},
        "chain 4": {"structure": "chain", "budget": 4, "num_speculative_tokens": 4},
        "tree 16": {"structure": "tree", "budget": 16},
        "tree 32": {"structure": "tree", "budget": 32},
        "graph 16": {"structure": "graph", "budget": 16},
        "graph 32": {"structure": "graph", "budget": 32},
    }
    for match in (-1, 0, 1):
        options[f"gsd 32, {f'τ={match}' if match >= 0 else 'never merging'}"] = {
            "structure": "gsd", "gsd_match": match, "budget": 32,
        }  # fmt: skip
    return [Ours(name, pair, task, **its) for name, its in options.items()]


def ratios(
    data: Path,
    prompts: int,
    repeats: int,
    tokens: int,
    names: Sequence[str] = tuple(ABOUT),
    temperatures: Sequence[float] = (0.0, 1.0),
    tell: Callable[[str], None] = lambda name: None,
) -> tuple[list[Pace], list[str]]:
    """Everybody once per prompt and repeat, in turns; also why a pair was left out."""
    paces, missing = [], []
    for name in names:
        try:
            pair = _pair(name, data, prompts)
        except MissingPairError as error:
            missing.append(f"{name}: {error}")
            continue
        for temperature in temperatures:
            everybody = contenders(pair, Task(temperature, tokens))
            paces += summarise(measure(everybody, pair.prompts, repeats, name, temperature, tell))
    return paces, missing


def _pair(name: str, data: Path, prompts: int) -> Pair:
    if name != "code":
        return load_pair(name, data, prompts)
    target, drafter = code_folders(data)
    tokenizer = AutoTokenizer.from_pretrained(target)
    short = spread(humaneval_prompts(tokenizer, data), prompts)
    if not short:
        raise MissingPairError("HumanEval (humaneval_dev64.jsonl) is not in the data folder")
    return Pair(name, ABOUT[name], load_model(target), load_model(drafter), tokenizer, short)


def summarise(runs: Sequence[Run]) -> list[Pace]:
    """Medians of the ratios within turns, for the runs of one pair at one temperature."""
    pace = {(run.contender, run.prompt, run.repeat): run.seconds / run.tokens for run in runs}
    rows = []
    for name in dict.fromkeys(run.contender for run in runs):
        mine = [run for run in runs if run.contender == name]
        faster = {}
        for baseline in BASELINES:
            quotients = [pace[baseline, run.prompt, run.repeat] / pace[name, run.prompt, run.repeat] for run in mine]
            low, middle, high = (float(x) for x in np.percentile(quotients, [10, 50, 90]))
            faster[baseline] = middle, low, high
        ms = statistics.median(run.seconds / run.tokens for run in mine) * 1e3
        length = sum(run.tokens for run in mine) / sum(run.rounds for run in mine)
        rows.append(Pace(mine[0].pair, mine[0].temperature, name, ms, faster, length, len(mine)))
    return rows
