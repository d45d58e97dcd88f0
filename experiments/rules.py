"""Every rule on the same drafts: expected tokens per target call, by draft, rule, node count and temperature. No clocks.

    python experiments/rules.py [--part gamma|nodes|all] [--pair story code] [--quick]
    python experiments/rules.py --part nodes --pair weak --temperature 0.2 0.4 --out FOLDER      # where FIXED drafts do as well

gamma  block against token verification on chains of 1 to 16 tokens.
nodes  every kind of draft at 8, 16, 32 and 64 nodes, each judged by every rule that verifies it.

One round at fixed places of held-out texts; what is averaged is the expectation given the draft. Writes rules.json, rules.md
and plots into --out; with --quick rules-quick.*.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import logging

import draftgraph as dg
from draftgraph.errors import DraftError
from experiments.drafts import Drafted, draft_at, expected_length
from experiments.machine import ROOT, environment, load_average, sentence
from experiments.pairs import MissingPairError, code_folders, load_model, python_texts, spread, stories, story_folders
from experiments.report import mean_and_error, table
from experiments.rules_plot import plot

CUTS = (40, 80, 120)
GAMMA = 16
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
NODES = {8: (2, 1, 1, 1), 16: (2, *[1] * 7), 32: (2, 2, *[1] * 6), 64: (4, 2, *[1] * 6)}
"""Fixed shapes for about that many nodes."""
ABOUT = {
    "story": "stories260K with its 124k drafter, held-out stories",
    "weak": "stories260K with its 29k drafter, held-out stories",
    "code": "a 10.2 M model of Python source with its 1.3 M drafter (the target was grown from the drafter), HumanEval solutions",
}


@dataclass(frozen=True)
class Setup:
    """A kind of draft, the options of `Config` that make it, and the rules that judge it.

    fill  spend the whole budget, even on slots that the engine would not find worth a row: a baseline of equal size.
    """

    name: str
    options: dict[str, Any]
    rules: tuple[str, ...]
    fill: bool = False


def setups(nodes: int) -> Iterator[Setup]:
    """Everything that is compared at a node count."""
    shape = NODES[nodes]
    fixed: dict[str, Any] = {"structure": "tree", "branching": shape}
    joint = ("layer", "traversal", "recursive")
    yield Setup("level policy", {"structure": "tree", "budget": nodes}, ("layer", "recursive"))
    yield Setup("hybrid", fixed | {"children": "hybrid"}, joint)
    yield Setup("systematic", fixed | {"children": "systematic"}, joint)
    yield Setup("spine", fixed | {"children": "spine"}, joint)
    yield Setup("without replacement", fixed | {"children": "without_replacement"}, joint)
    yield Setup("with replacement", fixed | {"children": "with_replacement"}, (*joint, "kseq"))
    paths = (max(2, nodes // 8), *[1] * 7) if nodes > 8 else (2, 1, 1, 1)
    yield Setup("i.i.d. paths", {"structure": "paths", "branching": paths}, (*joint, "kseq", "multipath"))
    yield Setup("comb", {"structure": "comb", "budget": nodes}, ("layer", "recursive"))
    yield Setup("top-k, same shape", fixed | {"children": "fixed", "rule": "walk"}, ("walk",))
    best = {"structure": "tree", "budget": nodes, "rule": "walk"}
    yield Setup("top-k, best first", best, ("walk",), fill=True)
    if nodes <= GAMMA:
        yield Setup(
            "chain", {"structure": "chain", "budget": nodes, "num_speculative_tokens": nodes}, ("block", "token")
        )


@dataclass(frozen=True)
class Row:
    """length, error  expected tokens of a round, mean over places ± standard error over texts; nodes, passes  means."""

    part: str
    pair: str
    temperature: float
    target_nodes: int
    draft: str
    rule: str
    length: float
    error: float
    nodes: float
    passes: float
    places: int


@dataclass(frozen=True)
class Gain:
    """How much more one (draft, rule) emits than another at the same node count: ratio of means ± its standard error."""

    pair: str
    temperature: float
    nodes: int
    winner: str
    baseline: str
    ratio: float
    error: float


@dataclass(frozen=True)
class Pair:
    name: str
    target: PreTrainedModel
    drafter: PreTrainedModel
    texts: Sequence[Sequence[int]]

    def engine(self, options: dict[str, Any]) -> dg.Engine:
        return dg.Engine.from_pretrained(self.target, draft_model=self.drafter, **options)

    def places(self) -> Iterator[tuple[int, Sequence[int], int]]:
        """(text number, what stands before the place, a seed of its own)."""
        for number, ids in enumerate(self.texts):
            for cut in CUTS:
                if len(ids) >= cut:
                    yield number, ids[:cut], 1000 * number + cut


def load_pair(name: str, data: Path, texts: int) -> Pair:
    target, drafter = code_folders(data) if name == "code" else story_folders(data)
    if name == "weak":
        drafter = drafter.with_name("stories260K-draft-29k")
    tokenizer = AutoTokenizer.from_pretrained(target)
    found = python_texts(tokenizer, data) if name == "code" else stories(tokenizer, data)
    long = [ids for ids in found if len(ids) >= CUTS[0]]
    return Pair(name, load_model(target), load_model(drafter), spread(long, texts))


def by_gamma(pair: Pair, temperature: float) -> Iterator[Row]:
    """One chain of 16 tokens per place tells all lengths: P(τ ≥ i | X^i) does not depend on what follows position i."""
    engine = pair.engine({"structure": "chain", "budget": GAMMA, "num_speculative_tokens": GAMMA, "rule": "block"})
    totals: dict[str, dict[int, list[list[float]]]] = {"block": {}, "token": {}}
    for number, ids, seed in pair.places():
        drafted = draft_at(engine, ids, temperature, seed)
        for rule, accepted in (("block", block_masses(drafted)), ("token", token_masses(drafted))):
            totals[rule].setdefault(number, []).append([1.0 + total for total in accumulate(accepted)])
    for rule, of_text in totals.items():
        for gamma in range(1, GAMMA + 1):
            means = [statistics.fmean(lengths[gamma - 1] for lengths in places) for places in of_text.values()]
            places = sum(len(places) for places in of_text.values())
            yield Row(
                "gamma", pair.name, temperature, gamma, "chain", rule, *mean_and_error(means), gamma, gamma, places
            )


def block_masses(drafted: Drafted) -> list[float]:
    """b_i = min(1, b_{i-1} p(X_i) / q(X_i)) for i = 1..γ (Block Verification, Algorithm 2)."""
    masses, b = [], 1.0
    for ratio in drafted.ratios():
        b = min(1.0, b * ratio)
        masses.append(b)
    return masses


def token_masses(drafted: Drafted) -> list[float]:
    """Π_{j ≤ i} min(1, p(X_j) / q(X_j)) for i = 1..γ."""
    return list(accumulate((min(1.0, ratio) for ratio in drafted.ratios()), lambda a, b: a * b))


def by_nodes(pair: Pair, temperature: float, nodes: int) -> tuple[list[Row], list[Gain]]:
    """Every kind of draft at a node count; places and seeds are the same for all."""
    rows: list[Row] = []
    lengths: dict[str, dict[int, list[float]]] = {}
    for setup in setups(nodes):
        engine = pair.engine(setup.options)
        sizes, passes = [], []
        mine: dict[str, dict[int, list[float]]] = {rule: {} for rule in setup.rules}
        for number, ids, seed in pair.places():
            drafted = draft_at(engine, ids, temperature, seed, setup.fill)
            sizes.append(len(drafted.tree))
            passes.append(drafted.draft.num_passes)
            for rule in setup.rules:
                try:
                    length = expected_length(dg.rules()[rule], drafted)
                except DraftError:
                    continue
                mine[rule].setdefault(number, []).append(length)
        for rule, of_text in mine.items():
            means = [statistics.fmean(places) for places in of_text.values()]
            size, places = statistics.fmean(sizes), sum(map(len, of_text.values()))
            row = Row("nodes", pair.name, temperature, nodes, setup.name, rule, *mean_and_error(means), size,
                      statistics.fmean(passes), places)  # fmt: skip
            rows.append(row)
            lengths[f"{setup.name}, {rule}"] = of_text
    winners, baselines = (
        ("level policy, layer", "hybrid, layer"),
        ("without replacement, recursive", "top-k, best first, walk"),
    )
    gains = [_gain(pair.name, temperature, nodes, a, b, lengths) for a in winners for b in baselines]
    return rows, gains


def _gain(
    pair: str, temperature: float, nodes: int, winner: str, baseline: str, lengths: dict[str, dict[int, list[float]]]
) -> Gain:
    """Ratio of means; its error from the paired differences a − r b over texts (delta method)."""
    a, b = ([statistics.fmean(places) for places in lengths[name].values()] for name in (winner, baseline))
    ratio = statistics.fmean(a) / statistics.fmean(b)
    _, error = mean_and_error([x - ratio * y for x, y in zip(a, b, strict=True)])
    return Gain(pair, temperature, nodes, winner, baseline, ratio, error / statistics.fmean(b))


def markdown(report: dict[str, Any], rows: Sequence[Row], gains: Sequence[Gain]) -> str:
    out = ["# Rules on the same drafts", "", sentence(report["environment"]), ""]
    out += [f"* **{name}**: {about}." for name, about in ABOUT.items() if any(row.pair == name for row in rows)]
    out += [
        "",
        f"One round behind the first {', '.join(map(str, CUTS))} tokens of held-out texts ({max(row.places for row in rows)} "
        "places at most), float32, no top-k, no top-p. Figures are expected tokens per target call (accepted + 1) given the "
        "draft, mean ± standard error over texts. Nothing is learnt from earlier rounds. Reproduce: `python experiments/rules.py`.",
        "",
    ]
    for pair in dict.fromkeys(row.pair for row in rows):
        out += _gamma_tables(pair, [row for row in rows if row.pair == pair and row.part == "gamma"])
        out += _node_tables(pair, [row for row in rows if row.pair == pair and row.part == "nodes"])
        out += _gain_table(pair, [gain for gain in gains if gain.pair == pair])
    return "\n".join(out)


def _gamma_tables(pair: str, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    found = {(row.temperature, row.target_nodes, row.rule): row for row in rows}
    temperatures = sorted({row.temperature for row in rows})
    lines = []
    for gamma in sorted({row.target_nodes for row in rows}):
        cells = []
        for t in temperatures:
            token, block = found[t, gamma, "token"], found[t, gamma, "block"]
            cells.append(f"{token.length:.2f} → {block.length:.2f} ({block.length / token.length - 1:+.1%})")
        lines.append([str(gamma), *cells])
    head = ["γ", *(f"T={t:g}: token → block" for t in temperatures)]
    return [f"## {pair}: chains of γ tokens", "", *table(head, lines), ""]


def _node_tables(pair: str, rows: Sequence[Row]) -> list[str]:
    out: list[str] = []
    for t in sorted({row.temperature for row in rows}, reverse=True):
        mine = [row for row in rows if row.temperature == t]
        sizes = sorted({row.target_nodes for row in mine})
        cells = {(row.draft, row.rule, row.target_nodes): row for row in mine}
        names = list(dict.fromkeys((row.draft, row.rule) for row in mine))
        lines = [[draft, rule, *(_cell(cells.get((draft, rule, size))) for size in sizes)] for draft, rule in names]
        head = ["draft", "rule", *(f"{size} nodes" for size in sizes)]
        out += [f"## {pair}: expected tokens at T={t:g} (mean nodes)", "", *table(head, lines), ""]
    return out


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{row.length:.2f} ± {row.error:.2f} ({row.nodes:.0f})"


def _gain_table(pair: str, gains: Sequence[Gain]) -> list[str]:
    if not gains:
        return []
    lines = [
        [
            f"{gain.winner} / {gain.baseline}",
            f"{gain.temperature:g}",
            str(gain.nodes),
            f"{gain.ratio:.3f} ± {gain.error:.3f}",
        ]
        for gain in gains
    ]
    return [f"## {pair}: ratios", "", *table(["compared", "T", "nodes", "ratio"], lines), ""]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare rules on the same drafts.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--part", choices=["gamma", "nodes", "all"], default="all")
    parser.add_argument("--pair", choices=list(ABOUT), nargs="+", default=["story", "code"])
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0, 0.6], metavar="T", help="of part nodes")
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="3 texts, 8 and 16 nodes, two temperatures")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of test material")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args(arguments)
    if min(options.texts, options.threads) < 1 or min(options.temperature) <= 0:
        parser.error("counts must be at least 1, and temperatures above 0")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    temperatures, sizes = (TEMPERATURES, list(NODES)) if not options.quick else ((0.6, 1.0), [8, 16])
    try:
        pairs = [load_pair(name, options.data, 3 if options.quick else options.texts) for name in options.pair]
    except MissingPairError as missing:
        sys.exit(f"nothing to measure: {missing}")
    report: dict[str, Any] = {"environment": environment()}
    rows: list[Row] = []
    gains: list[Gain] = []
    jobs: list[tuple[str, Pair, float, int]] = []
    for pair in pairs:
        jobs += [("gamma", pair, t, 0) for t in temperatures if options.part != "nodes"]
        jobs += [("nodes", pair, t, size) for t in options.temperature for size in sizes if options.part != "gamma"]
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=len(jobs))
        for part, pair, temperature, size in jobs:
            progress.update(bar, description=f"{pair.name} {part} T={temperature:g} {size or ''}")
            if part == "gamma":
                rows += by_gamma(pair, temperature)
            else:
                more, ratios = by_nodes(pair, temperature, size)
                rows, gains = rows + more, gains + ratios
            progress.advance(bar)
    report["environment"]["load_after"] = load_average()
    text = markdown(report, rows, gains)
    options.out.mkdir(parents=True, exist_ok=True)
    name = "rules-quick" if options.quick else "rules"
    (options.out / f"{name}.md").write_text(text, encoding="utf-8")
    body = report | {"rows": [asdict(row) for row in rows], "gains": [asdict(gain) for gain in gains]}
    (options.out / f"{name}.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    plot(body, options.out / f"{name}.png")
    print(text)


if __name__ == "__main__":
    main()
