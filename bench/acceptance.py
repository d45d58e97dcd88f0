"""How many tokens a target call yields on the story pair, by structure, rule, budget and temperature. No clocks.

    python bench/acceptance.py [--part cuts|texts|all] [--temperature 1 0.6 0] [--quick]

cuts   one round each at fixed places of held-out stories; what the round is expected to emit given its draft.
texts  whole generations from the stories' beginnings; mean acceptance length.

Writes acceptance.json and acceptance.md into --out; with --quick acceptance-quick.* instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import logging

import draftgraph as dg
from bench.drafts import one_round
from bench.machine import ROOT, environment, load_average, sentence
from bench.pairs import ABOUT, STORY_TOKENS, MissingPairError, load_model, spread, stories, story_folders
from bench.report import mean_and_error, table

CUTS = (30, 70, 110)
NEW_TOKENS = 100
BUDGETS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Setup:
    """A way to draft and verify; `options` are those of `Config`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


def setups(temperature: float, budgets: Sequence[int] = BUDGETS) -> Iterator[Setup]:
    """Everything that is compared at a temperature. At 0 every rule is the longest match, so only one is run there.

    On a chain, block is the layer rule.
    """
    rules = ("layer", "agree") if temperature > 0 else ("layer",)
    chain_rules = ("block", "token", "agree") if temperature > 0 else ("block",)
    for depth in (4, 8):
        for rule in chain_rules:
            options = {"structure": "chain", "budget": depth, "num_speculative_tokens": depth, "rule": rule}
            yield Setup(f"chain {depth}, {rule}", options)
    for shape in ((2, 2, 1, 1, 1, 1), (3, 2, 1, 1)):
        for rule in rules:
            nodes = sum(_products(shape))
            name = f"branching {'·'.join(map(str, shape))} ({nodes}), {rule}"
            yield Setup(name, {"structure": "tree", "branching": shape, "budget": nodes, "rule": rule})
    for structure in ("tree", "graph"):
        for rule in rules:
            for budget in budgets:
                yield Setup(f"{structure} {budget}, {rule}", {"structure": structure, "budget": budget, "rule": rule})


def _products(shape: Sequence[int]) -> Iterator[int]:
    """Nodes per level of a tree of fixed shape."""
    nodes = 1
    for children in shape:
        nodes *= children
        yield nodes


@dataclass(frozen=True)
class Row:
    """part  "cuts" or "texts". length  mean over stories; error  its standard error over stories. nodes  per round."""

    part: str
    temperature: float
    setup: str
    length: float
    error: float
    nodes: float
    passes: float
    stories: int
    rounds: int


def at_cuts(engine: dg.Engine, setup: str, texts: Sequence[Sequence[int]], temperature: float) -> Row:
    """One round at every cut of every text that is long enough."""
    by_text = [
        [one_round(engine, ids[:cut], temperature, 1000 * number + cut) for cut in CUTS if len(ids) >= cut]
        for number, ids in enumerate(texts)
    ]
    by_text = [rounds for rounds in by_text if rounds]
    every = [one for rounds in by_text for one in rounds]
    length = mean_and_error([statistics.fmean(one.length for one in rounds) for rounds in by_text])
    nodes, passes = statistics.fmean(one.nodes for one in every), statistics.fmean(one.passes for one in every)
    return Row("cuts", temperature, setup, *length, nodes, passes, len(by_text), len(every))


def over_texts(
    engine: dg.Engine, setup: str, texts: Sequence[Sequence[int]], temperature: float, new_tokens: int = NEW_TOKENS
) -> Row:
    """Whole generations from the beginning of every text."""
    beginnings = [list(ids[:STORY_TOKENS]) for ids in texts if len(ids) >= STORY_TOKENS]
    stats = [
        engine.generate(
            ids, dg.SamplingParams(max_new_tokens=new_tokens, temperature=temperature, ignore_eos=True, seed=number)
        ).stats
        for number, ids in enumerate(beginnings)
    ]
    length = mean_and_error([one.mean_acceptance_length for one in stats])
    rounds = sum(one.num_rounds for one in stats)
    nodes, passes = sum(one.num_verified_nodes for one in stats), sum(one.num_drafter_passes for one in stats)
    return Row("texts", temperature, setup, *length, nodes / rounds, passes / rounds, len(stats), rounds)


def markdown(report: dict[str, Any], rows: Sequence[Row]) -> str:
    """The report as Markdown: a table per part, a row per setup, a column per temperature."""
    out = ["# Acceptance on the story pair", "", sentence(report["environment"]), "", ABOUT["story"], ""]
    out += ["Reproduce: `python bench/acceptance.py`. Sampling is from the full distribution (no top-k, no top-p).", ""]
    for part, title in TITLES.items():
        mine = {(row.setup, row.temperature): row for row in rows if row.part == part}
        if not mine:
            continue
        temperatures = list(dict.fromkeys(temperature for _, temperature in mine))
        counts = f"{max(row.stories for row in mine.values())} stories, at most {max(r.rounds for r in mine.values())} rounds"
        out += [f"## {title}", "", f"{NOTES[part]} {counts} per entry.", ""]
        lines = [
            [setup, *(_cell(mine.get((setup, temperature))) for temperature in temperatures)]
            for setup in dict.fromkeys(setup for setup, _ in mine)
        ]
        head = [f"T={t:g}: tokens per target call (nodes; passes)" for t in temperatures]
        out += [*table(["draft, rule", *head], lines), ""]
    return "\n".join(out)


TITLES = {"cuts": "At fixed places of held-out stories", "texts": "Whole generations"}
NOTES = {
    "cuts": (
        f"One round behind the first {', '.join(map(str, CUTS[:-1]))} and {CUTS[-1]} tokens of a story: expected tokens given "
        "the draft, exact but for the agree rule, which is one draw per place; mean over stories ± standard error. "
        "Nothing is learnt from earlier rounds here."
    ),
    "texts": (
        f"{NEW_TOKENS} new tokens behind the first {STORY_TOKENS} of a story: mean acceptance length ± standard error over "
        "stories. The texts differ between rows above temperature 0, and at 0 this model repeats itself."
    ),
}


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.length:.2f} ± {row.error:.2f} ({row.nodes:.1f}; {row.passes:.1f})"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure acceptance on the story pair.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--part", choices=["cuts", "texts", "all"], default="all")
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0, 0.6, 0.0], metavar="T")
    parser.add_argument("--budget", type=int, nargs="+", default=list(BUDGETS), metavar="N", help="of trees and graphs")
    parser.add_argument("--stories", type=int, default=90, help="for cuts")
    parser.add_argument("--texts", type=int, default=30, help="stories that are continued")
    parser.add_argument("--threads", type=int, default=1, help="more only get in each other's way on models this small")
    parser.add_argument("--quick", action="store_true", help="6 stories, 3 texts, budgets 8 and 16")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of test material")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args(arguments)
    if min(options.stories, options.texts, options.threads, *options.budget) < 1 or min(options.temperature) < 0:
        parser.error("counts and budgets must be at least 1, and temperatures at least 0")
    if options.quick:
        options.stories, options.texts, options.budget = 6, 3, [8, 16]
    return options


def measure(
    pair: tuple[PreTrainedModel, PreTrainedModel],
    setup: Setup,
    part: str,
    texts: Sequence[Sequence[int]],
    temperature: float,
) -> Row:
    engine = dg.Engine.from_pretrained(pair[0], draft_model=pair[1], **setup.options)
    return (at_cuts if part == "cuts" else over_texts)(engine, setup.name, texts, temperature)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        target, drafter = story_folders(options.data)
        texts = stories(AutoTokenizer.from_pretrained(target), options.data)
    except MissingPairError as missing:
        sys.exit(f"nothing to measure: {missing}")
    pair = load_model(target), load_model(drafter)
    wanted = {"cuts": spread(texts, options.stories), "texts": spread(texts, options.texts)}
    parts = list(wanted) if options.part == "all" else [options.part]
    jobs = [(part, t, setup) for part in parts for t in options.temperature for setup in setups(t, options.budget)]
    report: dict[str, Any] = {"environment": environment()}
    rows: list[Row] = []
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=len(jobs))
        for part, temperature, setup in jobs:
            progress.update(bar, description=f"{part} T={temperature:g} {setup.name}")
            rows.append(measure(pair, setup, part, wanted[part], temperature))
            progress.advance(bar)
    report["environment"]["load_after"] = load_average()
    text = markdown(report, rows)
    options.out.mkdir(parents=True, exist_ok=True)
    name = "acceptance-quick" if options.quick else "acceptance"
    (options.out / f"{name}.md").write_text(text, encoding="utf-8")
    body = json.dumps(report | {"rows": [asdict(row) for row in rows]}, indent=1, ensure_ascii=False)
    (options.out / f"{name}.json").write_text(body + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
