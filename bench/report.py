"""From runs to rows, and from rows to Markdown."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.clock import Run
from bench.contenders import NOTES, PLAIN
from bench.machine import sentence
from draftgraph.request.stats import PARTS

FORWARDS = ("drafter", "target")
"""Parts of a round that are spent inside the models; the rest is what draftgraph adds around them."""


@dataclass(frozen=True)
class Row:
    """What one contender did on one pair at one temperature.

    ms_per_token   median over prompts of the medians over repeats.
    speedup        transformers plain / this one, of runs of one turn (same prompt, seconds apart): median,
                   10th and 90th percentile over all turns.
    acceptance     tokens per target call, mean over prompts; acceptance_error  its standard error over prompts.
    nodes          drafted rows that the target computed per round.
    outside        share of the rounds' time that was not spent in the models' forwards, parts  ms per round and part:
                   medians over runs; None where it is not split.
    same, prompts  prompts whose ids were those of transformers' plain greedy decoding in every repeat, of how many.
    """

    pair: str
    temperature: float
    contender: str
    ms_per_token: float
    speedup: tuple[float, float, float]
    acceptance: float
    acceptance_error: float
    nodes: float
    outside: float | None
    parts: dict[str, float] | None
    same: int | None
    prompts: int


def summarise(runs: Iterable[Run]) -> list[Row]:
    """A row per pair, temperature and contender, in the order in which they first appear."""
    groups: dict[tuple[str, float, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.pair, run.temperature, run.contender].append(run)
    return [
        _row(*key, group, {(run.prompt, run.repeat): run for run in groups[key[0], key[1], PLAIN]})
        for key, group in list(groups.items())
    ]


def _row(
    pair: str, temperature: float, contender: str, runs: Sequence[Run], plain: Mapping[tuple[str, int], Run]
) -> Row:
    by_prompt: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_prompt[run.prompt].append(run)
    ratios = [_pace(plain[run.prompt, run.repeat]) / _pace(run) for run in runs]
    low, middle, high = (float(x) for x in np.percentile(ratios, [10, 50, 90]))
    lengths = [sum(run.tokens for run in group) / sum(run.rounds for run in group) for group in by_prompt.values()]
    rounds = sum(run.rounds for run in runs)
    greedy = [all(run.same for run in group) for group in by_prompt.values() if group[0].same is not None]
    return Row(
        pair,
        temperature,
        contender,
        statistics.median(statistics.median(map(_pace, group)) for group in by_prompt.values()),
        (middle, low, high),
        *mean_and_error(lengths),
        sum(run.nodes for run in runs) / rounds,
        _outside(runs),
        _parts(runs),
        sum(greedy) if greedy else None,
        len(by_prompt),
    )


def _pace(run: Run) -> float:
    """ms per token."""
    return run.seconds / run.tokens * 1e3


def _parts(runs: Sequence[Run]) -> dict[str, float] | None:
    """Medians over runs, like all times here: one stall would otherwise be most of a mean."""
    split = [(run.parts, run.rounds) for run in runs if run.parts is not None]
    if len(split) < len(runs):
        return None
    return {name: statistics.median(parts[i] / n * 1e3 for parts, n in split) for i, name in enumerate(PARTS)}


def _outside(runs: Sequence[Run]) -> float | None:
    inside = [PARTS.index(name) for name in FORWARDS]
    shares = [1.0 - sum(run.parts[i] for i in inside) / sum(run.parts) for run in runs if run.parts is not None]
    return statistics.median(shares) if shares else None


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of independent values and its standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.fmean(values), error


def markdown(report: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The report as Markdown. `report` is the JSON object without its rows and runs."""
    out = ["# Speed against transformers", "", sentence(report["environment"]), "", *_method(report), ""]
    for pair in dict.fromkeys(row.pair for row in rows):
        out += [f"## {pair.capitalize()} pair", "", report["pairs"][pair]["about"], ""]
        out += [_prompts(report["pairs"][pair]["prompts"]), ""]
        for temperature in dict.fromkeys(row.temperature for row in rows if row.pair == pair):
            mine = [row for row in rows if (row.pair, row.temperature) == (pair, temperature)]
            out += [f"### {pair.capitalize()} pair, temperature {temperature:g}", "", *results_table(mine), ""]
            out += ["Milliseconds per round, by part (medians over runs):", "", *parts_table(mine), ""]
    out += ["## What was tuned for transformers", "", *tuning_table(report["tuned"]), ""]
    for line in report["skipped"]:
        out += [f"Skipped: {line}.", ""]
    return "\n".join(out)


def _method(report: Mapping[str, Any]) -> list[str]:
    settings = report["settings"]
    arguments = f' ARGS="{settings["arguments"]}"' if settings["arguments"] else ""
    return [
        f"Reproduce: `make bench{arguments}`. Every run is in the JSON file beside this one.",
        "",
        f"- Everybody generates exactly {settings['max_new_tokens']} tokens per run (end-of-sequence tokens are ignored), "
        "batch 1, float32, on the same loaded weights in one process. Sampling is from the full distribution "
        "(no top-k, no top-p).",
        f"- Interleaved in turns: every contender once on one prompt ({settings['repeats']} turns per prompt); the order "
        "rotates and turns around. A warm-up run of everybody precedes each table; garbage is collected between turns and "
        "not within runs. Times are of the whole call, prompt included; draftgraph's also include detokenisation.",
        "- Speed-up: time of transformers plain / time of the contender, within one turn; median and, in brackets, "
        "10th to 90th percentile over turns. Below 1 is slower than not speculating at all.",
        "- Tokens per target call: the mean acceptance length, over prompts, ± its standard error. "
        "Nodes: drafted rows that the target computed per call.",
        "- Outside: share of the rounds' time that is not spent in the two models' forwards.",
        "- Identical: prompts whose text is token by token that of transformers' plain greedy decoding.",
        "- Of the options of transformers that its user would tune, the fastest on the first "
        f"{settings['tuning_prompts']} prompts entered the table; what was tried is at the end.",
        *(f"- {note}" for note in NOTES),
    ]


def tuning_table(tuned: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for one in tuned:
        options = {name.partition("(")[2].rstrip(")"): ms for name, ms in one["ms_per_token"].items()}
        times = ", ".join(f"{option}: {ms:.2f}" for option, ms in options.items())
        lines.append([f"{one['pair']}, {one['temperature']:g}", one["kind"], times])
    return table(["pair, temperature", "of transformers", "ms/token"], lines)


def _prompts(prompts: Sequence[Mapping[str, Any]]) -> str:
    sources: dict[str, list[int]] = defaultdict(list)
    for prompt in prompts:
        sources[prompt["source"]].append(prompt["tokens"])
    named = (f"{len(n)} from {name} ({min(n)}–{max(n)} tokens)" for name, n in sources.items())
    return "Prompts: " + ", ".join(named).replace("from own", "written for this benchmark") + "."


def results_table(rows: Sequence[Row]) -> list[str]:
    greedy = any(row.same is not None for row in rows)
    head = ["contender", "ms/token", "speed-up", "tokens per target call", "nodes", "outside"]
    lines = [
        [
            row.contender,
            f"{row.ms_per_token:.2f}",
            f"{row.speedup[0]:.2f} ({row.speedup[1]:.2f}–{row.speedup[2]:.2f})",
            f"{row.acceptance:.2f} ± {row.acceptance_error:.2f}",
            f"{row.nodes:.1f}",
            "" if row.outside is None else f"{row.outside:.0%}",
            *([f"{row.same}/{row.prompts}"] if greedy else []),
        ]
        for row in rows
    ]
    return table(head + ["identical"] * greedy, lines)


def parts_table(rows: Sequence[Row]) -> list[str]:
    lines = [[row.contender, *(f"{row.parts[name]:.2f}" for name in PARTS)] for row in rows if row.parts]
    return table(["contender", *PARTS], lines)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *lines)]
