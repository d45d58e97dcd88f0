"""Does the theory say what the engine does? Predicted beside measured tokens per target call, on real pairs. No clocks.

    python experiments/prediction.py [--pair story-124k story-29k code] [--temperature 1 0.6] [--quick]

places   one round each at places of texts that the target wrote: what the engine's round is expected to emit given its draft,
         against the prediction for that very place. Paired, text by text.
texts    whole generations against the prediction from other texts that the target wrote; and against the prediction given the
         very texts that came out, which leaves only the luck of the rounds. Nothing is learnt between rounds here, as the theory
         has it; `shipped` is the engine as it is, which tunes the drafter's temperature as it goes.

Writes prediction.json and prediction.md into --out; with --quick prediction-quick.* instead.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.progress import track
from transformers import AutoTokenizer
from transformers.utils import logging

import draftgraph as dg
from draftgraph.draft.model import ModelDrafter
from draftgraph.lab.pair import Pair
from draftgraph.lab.predict.acceptance import Plan, by_text, over_texts, rounds, survival
from draftgraph.lab.predict.estimate import Estimate, ratio
from draftgraph.lab.predict.rows import PairRows, read_rows
from draftgraph.lab.predict.surrogate import TreePlan, anywhere, check_on_chains, forecast, lengths, round_starts
from draftgraph.lab.texts import Text, own_texts
from experiments.drafts import one_round
from experiments.machine import ROOT, environment, load_average, sentence
from experiments.pairs import MissingPairError, load_model, python_prompts, spread, stories
from experiments.report import table

PAIRS = {
    "story-124k": ("stories260K", "stories260K-draft-124k"),
    "story-29k": ("stories260K", "stories260K-draft-29k"),
    "code": ("code10m", "code10m-draft-1m"),
}
PROMPT_TOKENS = 24
SHIPPED = ("chain 4, block", "tree of 16, layer")
SAMPLES = 3
"""Texts per prompt that are predicted from. All rows of a table share them, and their luck."""
WIDE = 3.0
"""Standard errors beyond which a difference is marked."""


@dataclass(frozen=True)
class Setup:
    """A draft and its rule. `plan` says how it is predicted; `options`, how the engine is asked for it."""

    plan: Plan | TreePlan
    rule: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.plan.name}, {self.rule}"


def setups() -> list[Setup]:
    """Chains of every rule, and trees; `exact` ones are those with a `Plan`."""
    found = []
    for rule, depth in (("token", 4), ("block", 4), ("block", 8), ("agree", 4)):
        children = "fixed" if rule == "agree" else "hybrid"
        options = {"structure": "chain", "budget": depth, "num_speculative_tokens": depth, "rule": rule}
        found.append(Setup(Plan(rule, (1,) * depth, children), rule, options))
    shape = (2, 2, 1, 1)
    found.append(Setup(Plan("walk", shape, "fixed"), "walk", {"structure": "tree", "branching": shape, "rule": "walk"}))
    if "recursive" in dg.rules():
        tree = {"structure": "tree", "branching": shape, "rule": "recursive"}
        for children in ("hybrid", "without_replacement"):
            name = f"recursive of {children.replace('_', ' ')}"
            found.append(Setup(Plan("recursive", shape, children), name, tree | {"children": children}))
    for shape in ((2, 2, 1, 1), (2, 2, 1, 1, 1, 1)):
        options = {"structure": "tree", "branching": shape, "rule": "layer"}
        found.append(Setup(TreePlan.of_shape(shape), "layer", options))
    fresh = TreePlan(TreePlan.of_budget(16).limits, learns=False)
    return [*found, Setup(fresh, "layer", {"structure": "tree", "budget": 16, "rule": "layer"})]


class FreshDrafter(ModelDrafter):
    """Learns nothing between rounds: the draft temperature stays 1 and the tables stay at their priors, as the theory has it."""

    def _calibrate(self, *_: Any) -> None:
        pass


def fresh_engine(pair: Pair, options: dict[str, Any]) -> dg.Engine:
    engine = pair.engine(**options)
    theirs = engine.drafter
    engine.drafter = FreshDrafter(theirs.model, theirs.config, theirs.vocab_size)
    return engine


@dataclass(frozen=True)
class Row:
    """Predicted and measured tokens per target call of one setup, and how many standard errors the difference is.

    part       "places", "texts" (predicted from other texts), "given" (from the very texts) or "shipped".
    exact      whether the prediction is an identity; otherwise it comes from surrogate rows.
    off        measured − predicted. off_errors  the same in its standard errors.
    counts     texts and rounds that were measured.
    """

    pair: str
    temperature: float
    part: str
    setup: str
    exact: bool
    predicted: Estimate
    measured: Estimate
    off: float
    off_errors: float

    @property
    def wide(self) -> bool:
        return abs(self.off_errors) > WIDE


def at_places(name: str, pair: Pair, rows: PairRows, setup: Setup, temperature: float, count: int) -> Row:
    """One round of the engine at places of the texts, and the prediction there."""
    depth = len(setup.plan.shape) if isinstance(setup.plan, Plan) else setup.plan.limits.depth
    where = anywhere(rows, depth, count)
    if isinstance(setup.plan, Plan):
        predicted = 1.0 + survival(rows, setup.plan).expected[where].sum(dim=1)
    else:
        predicted = lengths(rows, setup.plan, where)
    engine = pair.engine(**setup.options)
    measured = []
    for row in where.tolist():
        number = int(rows.text_of[row])
        text = rows.texts[number]
        ids = text.tokens[: text.start + row - rows.spans[number].begin]
        measured.append(one_round(engine, ids, temperature, 7919 * row + 1).length)
    got = torch.tensor(measured, dtype=torch.float64)
    said, found, off = (by_text(rows, where, values) for values in (predicted, got, got - predicted))
    return Row(name, temperature, "places", setup.name, isinstance(setup.plan, Plan), said, found, off.value, _z(off))


def over_generations(
    name: str,
    pair: Pair,
    rows: PairRows,
    setup: Setup,
    prompts: Sequence[list[int]],
    params: dg.SamplingParams,
    count: int,
) -> list[Row]:
    """Whole generations of the engine, which learns nothing, against the predictions from other texts and from its own."""
    results = generations(fresh_engine(pair, setup.options), prompts, params)
    measured = acceptance_length(results)
    said = predicted_length(rows, setup, count)
    exact = isinstance(setup.plan, Plan)
    found = [
        Row(
            name,
            params.temperature,
            "texts",
            setup.name,
            exact,
            said,
            measured,
            measured.value - said.value,
            measured.off(said),
        )
    ]
    if isinstance(setup.plan, Plan):
        found.append(_given(name, pair, setup, prompts, params, results, measured))
    return found


def _given(
    name: str,
    pair: Pair,
    setup: Setup,
    prompts: Sequence[list[int]],
    params: dg.SamplingParams,
    results: Sequence[dg.Result],
    measured: Estimate,
) -> Row:
    """The prediction along the very texts that came out: its rounds, text by text, against those that were made."""
    texts = [
        Text((*prompt, *one.token_ids), len(prompt), len(one.token_ids))
        for prompt, one in zip(prompts, results, strict=True)
    ]
    mine = read_rows(pair.target, pair.drafter, texts, params, pair.vocab)
    assert isinstance(setup.plan, Plan)
    given = survival(mine, setup.plan).given
    calls = [float(rounds(given[s.begin : s.end], s.limit - s.begin)[0].sum()) for s in mine.spans]
    made = [float(one.stats.num_rounds) for one in results]
    tokens = sum(len(one.token_ids) for one in results)
    said = ratio([float(len(one.token_ids)) for one in results], calls, round(sum(calls)))
    lost = [a - b for a, b in zip(made, calls, strict=True)]  # independent, of mean zero
    error = math.sqrt(sum(x * x for x in lost))
    off = tokens / sum(made) - said.value
    return Row(
        name, params.temperature, "given", setup.name, True, said, measured, off, -sum(lost) / error if error else 0.0
    )


def as_shipped(
    name: str,
    pair: Pair,
    rows: PairRows,
    setup: Setup,
    prompts: Sequence[list[int]],
    params: dg.SamplingParams,
    count: int,
) -> Row:
    """The engine as it is, tuning as it goes, against the prediction that knows no tuning (trees: with learnt tables)."""
    measured = acceptance_length(generations(pair.engine(**setup.options), prompts, params))
    if isinstance(setup.plan, TreePlan) and setup.plan.shape is None:
        setup = Setup(TreePlan(setup.plan.limits), setup.rule, setup.options)
    said = predicted_length(rows, setup, count)
    exact = isinstance(setup.plan, Plan)
    return Row(
        name,
        params.temperature,
        "shipped",
        setup.name,
        exact,
        said,
        measured,
        measured.value - said.value,
        measured.off(said),
    )


def predicted_length(rows: PairRows, setup: Setup, count: int) -> Estimate:
    if isinstance(setup.plan, Plan):
        return over_texts(rows, setup.plan)
    return forecast(rows, setup.plan, round_starts(rows, setup.plan.limits.depth, count)).tokens


def generations(engine: dg.Engine, prompts: Sequence[list[int]], params: dg.SamplingParams) -> list[dg.Result]:
    return [
        engine.generate(
            prompt,
            dg.SamplingParams(
                max_new_tokens=params.max_new_tokens,
                temperature=params.temperature,
                ignore_eos=True,
                seed=1000 + number,
            ),
        )
        for number, prompt in enumerate(prompts)
    ]


def acceptance_length(results: Sequence[dg.Result]) -> Estimate:
    calls = [float(one.stats.num_rounds) for one in results]
    return ratio(
        [one.stats.num_rounds + float(one.stats.num_accepted_tokens) for one in results], calls, round(sum(calls))
    )


def _z(off: Estimate) -> float:
    return off.value / off.error if off.error > 0 else 0.0


def load(name: str, data: Path, texts: int) -> tuple[Pair, list[list[int]]]:
    """A pair of the data folder and the beginnings that it continues. Raises MissingPairError if it is not there."""
    folders = [data / "models" / folder for folder in PAIRS[name]]
    if not all((folder / "config.json").is_file() for folder in folders):
        raise MissingPairError(f"the pair {name} is not in the data folder")
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    if name == "code":
        beginnings = [prompt.ids for prompt in python_prompts(tokenizer)]
        prompts = [beginnings[i % len(beginnings)] for i in range(max(2, texts // 2))]
    else:
        long = [ids[:PROMPT_TOKENS] for ids in stories(tokenizer, data) if len(ids) >= PROMPT_TOKENS]
        prompts = spread(long, texts)
    return Pair.load(*(load_model(folder) for folder in folders)), prompts


def study(name: str, temperature: float, options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """Everything about one pair at one temperature, and how far its surrogate is off on chains."""
    pair, prompts = load(name, options.data, options.texts)
    params = dg.SamplingParams(max_new_tokens=options.new_tokens, temperature=temperature, ignore_eos=True, seed=11)
    rows = read_rows(
        pair.target, pair.drafter, own_texts(pair.engine(budget=0), prompts * SAMPLES, params), params, pair.vocab
    )
    found: list[Row] = []
    for setup in track(setups(), f"{name}, T={temperature:g}"):
        found.append(at_places(name, pair, rows, setup, temperature, options.places))
        found += over_generations(name, pair, rows, setup, prompts, params, options.places)
        if setup.name in SHIPPED:
            found.append(as_shipped(name, pair, rows, setup, prompts, params, options.places))
    checks = {str(depth): asdict(check_on_chains(rows, depth, options.places)) for depth in (4, 8)}
    return found, {"pair": name, "temperature": temperature, "chains": checks}


def markdown(report: dict[str, Any], rows: Sequence[Row], checks: Sequence[dict[str, Any]]) -> str:
    """The report as Markdown: a table per pair, temperature and part."""
    settings = report["settings"]
    out = ["# Predicted and measured acceptance", "", sentence(report["environment"]), ""]
    out += [
        f"Reproduce: `python experiments/prediction.py`. {settings['texts']} prompts (half as many for the code pair) per pair and "
        f"temperature. Predicted from {SAMPLES} texts of {settings['new_tokens']} tokens per prompt that the target wrote, "
        f"measured on one text per prompt; one round each at {settings['places']} places. The rows of a table share the texts "
        "that they are predicted from, so their errors go together. "
        "Full distribution (no top-k, no top-p), "
        "end-of-sequence tokens ignored. ± is one standard error over texts; *off* is measured − predicted, in brackets in its "
        f"own standard errors; beyond {WIDE:g} it is marked !.",
        "",
        *_verdict(rows),
        "",
    ]
    for name, temperature in dict.fromkeys((row.pair, row.temperature) for row in rows):
        out += [f"## {name}, temperature {temperature:g}", ""]
        for part, note in PARTS.items():
            mine = [row for row in rows if (row.pair, row.temperature, row.part) == (name, temperature, part)]
            if mine:
                out += [
                    note,
                    "",
                    *table(["draft, rule", "by", "predicted", "measured", "rounds", "off"], map(_cells, mine)),
                    "",
                ]
        chains = next(c["chains"] for c in checks if (c["pair"], c["temperature"]) == (name, temperature))
        said = (
            f"{depth} deep {c['said']['value']:.2f} for {c['true']['value']:.2f} "
            f"({c['off']['value']:+.2f} ± {c['off']['error']:.2f})"
            for depth, c in chains.items()
        )
        out += [f"The surrogate on block-verified chains, where the truth is known: {'; '.join(said)}.", ""]
    return "\n".join(out)


PARTS = {
    "places": "One round at places of the target's texts (paired by text):",
    "texts": "Whole generations, predicted from other texts of the target; nothing is learnt between rounds:",
    "given": "The same generations, predicted along the very texts that came out:",
    "shipped": "The engine as shipped, which also tunes the drafter's temperature (not in the theory):",
}


def _verdict(rows: Sequence[Row]) -> list[str]:
    exact = [row for row in rows if row.exact and row.part != "shipped"]
    trees = [row for row in rows if not row.exact and row.part != "shipped"]
    lines = []
    for what, some in (("Identities", exact), ("Surrogate rows", trees)):
        if some:
            wide = sum(row.wide for row in some)
            spread = math.sqrt(sum(row.off_errors**2 for row in some) / len(some))
            relative = sum(row.off / row.measured.value for row in some) / len(some)
            lines.append(
                f"- {what}: {wide} of {len(some)} differences beyond {WIDE:g} standard errors; root mean square {spread:.2f} "
                f"(1 is pure chance); (measured − predicted) / measured is {relative:+.1%} on average."
            )
    return lines


def _cells(row: Row) -> list[str]:
    mark = " !" if row.wide else ""
    return [
        row.setup,
        "identity" if row.exact else "surrogate",
        f"{row.predicted.value:.3f} ± {row.predicted.error:.3f}",
        f"{row.measured.value:.3f} ± {row.measured.error:.3f}",
        str(row.measured.count),
        f"{row.off:+.3f} ({row.off_errors:+.1f}){mark}",
    ]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare predicted and measured acceptance.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--pair", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0, 0.6], metavar="T")
    parser.add_argument("--texts", type=int, default=24, help="half of them for the code pair, which is slower")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--places", type=int, default=75)
    parser.add_argument("--threads", type=int, default=1, help="more only get in each other's way on models this small")
    parser.add_argument("--quick", action="store_true", help="6 texts, 12 places, the first pair and temperature")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of test material")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args(arguments)
    if min(options.texts, options.places) < 2 or options.threads < 1 or options.new_tokens < 16:
        parser.error("at least 2 texts, 2 places, 1 thread and 16 new tokens")
    if min(options.temperature) <= 0:
        parser.error("temperatures above 0: there is nothing to predict where every rule is the longest match")
    if options.quick:
        options.texts, options.places, options.pair = 6, 12, options.pair[:1]
        options.temperature = options.temperature[:1]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    settings = {"texts": options.texts, "new_tokens": options.new_tokens, "places": options.places}
    report: dict[str, Any] = {"environment": environment(), "settings": settings}
    rows: list[Row] = []
    checks: list[dict[str, Any]] = []
    for name in options.pair:
        for temperature in options.temperature:
            try:
                found, check = study(name, temperature, options)
            except MissingPairError as missing:
                sys.exit(f"nothing to compare: {missing}")
            rows += found
            checks.append(check)
    report["environment"]["load_after"] = load_average()
    text = markdown(report, rows, checks)
    options.out.mkdir(parents=True, exist_ok=True)
    name = "prediction-quick" if options.quick else "prediction"
    (options.out / f"{name}.md").write_text(text, encoding="utf-8")
    body = json.dumps(
        report | {"surrogate": checks, "rows": [asdict(row) for row in rows]}, indent=1, ensure_ascii=False
    )
    (options.out / f"{name}.json").write_text(body + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
