"""Does the theory say what the engine does? Predicted beside measured tokens per target call, on real pairs; no clocks.

    python -m experiments.prediction [--pair story-124k story-29k code] [--temperature 1 0.6] [--quick]

places   one round each at places of texts that the target wrote: the tokens that the engine's round is expected to emit given
         its draft, against the prediction for that very place. Paired, text by text.
texts    whole generations against the prediction from other texts that the target wrote. Nothing is learnt between rounds here,
         as the theory has it.
given    the same generations against the prediction along the very texts that came out: only the luck of the rounds is left.
shipped  the engine as it is, which tunes the drafter's temperature as it goes.

Writes prediction.json and prediction.md into --out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.progress import track

import draftgraph as dg
from draftgraph.draft.model import ModelDrafter
from draftgraph.lab.bench.prompts import spread
from draftgraph.lab.pair import Pair
from draftgraph.lab.predict.acceptance import Plan, by_text, over_texts, rounds, survival
from draftgraph.lab.predict.estimate import Estimate, ratio
from draftgraph.lab.predict.prediction import budgeted, chain, recursive, shaped, tokens_per_call, walked
from draftgraph.lab.predict.rows import PairRows, read_rows
from draftgraph.lab.predict.surrogate import TreePlan, anywhere, check_on_chains, forecast, lengths, round_starts
from draftgraph.lab.texts import Text, own_texts
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table, temperature
from experiments.material import PAIRS, beginnings, held_out, load_pair
from experiments.one_round import Witness, draft_at, engine_with, expected_length

PROMPT_TOKENS = 24
SAMPLES = 3
"""Texts per prompt that are predicted from. All rows of a table share them, and their luck."""
SHIPPED = ("chain 4, block", "tree of 16, layer")
WIDE = 3.0
"""Standard errors beyond which a difference is marked."""
PARTS = {
    "places": "One round at places of the target's texts (paired by text):",
    "texts": "Whole generations, predicted from other texts of the target; nothing is learnt between rounds:",
    "given": "The same generations, predicted along the very texts that came out:",
    "shipped": "The engine as shipped, which also tunes the drafter's temperature (not in the theory):",
}


@dataclass(frozen=True)
class Setup:
    """A draft and its rule. plan  says how it is predicted; options  how the engine is asked for it."""

    plan: Plan | TreePlan
    options: dict[str, Any]

    @property
    def name(self) -> str:
        rule = self.options["rule"]
        if rule == "recursive":
            rule = f"recursive of {self.options['structure'].children.replace('_', ' ')}"
        return f"{self.plan.name}, {rule}"

    @property
    def depth(self) -> int:
        return len(self.plan.shape) if isinstance(self.plan, Plan) else self.plan.limits.depth


def setups() -> list[Setup]:
    """Chains of every rule, and trees."""
    shape = (2, 2, 1, 1)
    exact = [chain("token", 4), chain("block", 4), chain("block", 8), chain("agree", 4), walked(shape)]
    exact += [recursive(shape, children) for children in ("hybrid", "without_replacement")]
    plan, options = budgeted(16)
    return [
        *(Setup(*one) for one in exact),
        *(Setup(*shaped(one)) for one in (shape, (2, 2, 1, 1, 1, 1))),
        Setup(replace(plan, learns=False), options),
    ]


class Forgetful(ModelDrafter):
    """Learns nothing between rounds: the draft temperature stays 1 and the tables stay at their priors, as the theory has it."""

    def _calibrate(self, *_: Any) -> None:
        pass


@dataclass(frozen=True)
class Row:
    """Predicted and measured tokens per target call of one setup, and how many standard errors the difference is.

    part        of PARTS.
    exact       whether the prediction is an identity; otherwise it comes from surrogate rows.
    off         measured − predicted.
    off_errors  the same in its standard errors.
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


@dataclass(frozen=True)
class Study:
    """One pair at one temperature.

    prompts  that generations continue.
    rows     both models' laws along texts that the target wrote behind them.
    places   rounds per setup.
    """

    name: str
    pair: Pair
    prompts: Sequence[Sequence[int]]
    params: dg.SamplingParams
    rows: PairRows
    places: int

    def of(self, setup: Setup) -> Iterator[Row]:
        yield self.at_places(setup)
        results = self.generate(engine_with(Forgetful, self.pair, setup.options))
        measured, predicted = _measured(results), self.predict(setup.plan)
        yield self.row("texts", setup, predicted, measured, measured.value - predicted.value, measured.off(predicted))
        if isinstance(setup.plan, Plan):
            yield self.given(setup, setup.plan, results)
        if setup.name in SHIPPED:
            plan = setup.plan if isinstance(setup.plan, Plan) else replace(setup.plan, learns=True)
            measured, predicted = _measured(self.generate(self.pair.engine(**setup.options))), self.predict(plan)
            yield self.row(
                "shipped", setup, predicted, measured, measured.value - predicted.value, measured.off(predicted)
            )

    def row(
        self, part: str, setup: Setup, predicted: Estimate, measured: Estimate, off: float, off_errors: float
    ) -> Row:
        exact = isinstance(setup.plan, Plan)
        return Row(self.name, self.params.temperature, part, setup.name, exact, predicted, measured, off, off_errors)

    def at_places(self, setup: Setup) -> Row:
        """One round of the engine at places of the texts, and the prediction there."""
        where = anywhere(self.rows, setup.depth, self.places)
        if isinstance(setup.plan, Plan):
            predicted = 1.0 + survival(self.rows, setup.plan).expected[where].sum(dim=1)
        else:
            predicted = lengths(self.rows, setup.plan, where)
        engine = engine_with(Witness, self.pair, setup.options)
        rule = engine.choice(self.params).rule
        measured = []
        for row in where.tolist():
            number = int(self.rows.text_of[row])
            text = self.rows.texts[number]
            ids = text.tokens[: text.start + row - self.rows.spans[number].begin]
            drafted = draft_at(engine, ids, self.params.temperature, 7919 * row + 1)
            measured.append(expected_length(rule, drafted))
        got = torch.tensor(measured, dtype=torch.float64)
        said, found, off = (by_text(self.rows, where, values) for values in (predicted, got, got - predicted))
        return self.row("places", setup, said, found, off.value, off.value / off.error if off.error > 0 else 0.0)

    def given(self, setup: Setup, plan: Plan, results: Sequence[dg.Result]) -> Row:
        """The prediction along the very texts that came out: its rounds, text by text, against those that were made."""
        texts = [
            Text((*prompt, *one.token_ids), len(prompt), len(one.token_ids))
            for prompt, one in zip(self.prompts, results, strict=True)
        ]
        rows = read_rows(*self.pair.backends, texts, self.params, self.pair.vocab)
        given = survival(rows, plan).given
        calls = [float(rounds(given[s.begin : s.end], s.limit - s.begin)[0].sum()) for s in rows.spans]
        made = [one.stats.num_rounds for one in results]
        tokens = [float(len(one.token_ids)) for one in results]
        said = ratio(tokens, calls, round(sum(calls)))
        lost = [a - b for a, b in zip(made, calls, strict=True)]  # independent, of mean zero
        error = math.sqrt(sum(x * x for x in lost))
        off = sum(tokens) / sum(made) - said.value
        return self.row("given", setup, said, _measured(results), off, -sum(lost) / error if error else 0.0)

    def predict(self, plan: Plan | TreePlan) -> Estimate:
        """Tokens per target call of whole generations."""
        if isinstance(plan, Plan):
            return over_texts(self.rows, plan)
        return forecast(self.rows, plan, round_starts(self.rows, plan.limits.depth, self.places)).tokens

    def generate(self, engine: dg.Engine) -> list[dg.Result]:
        """Other texts than those predicted from: seeds differ."""
        return [engine.generate(list(p), replace(self.params, seed=1000 + i)) for i, p in enumerate(self.prompts)]


def _measured(results: Sequence[dg.Result]) -> Estimate:
    return tokens_per_call([one.stats for one in results])


def prompts_of(name: str, pair: Pair, data: Any, texts: int) -> list[list[int]]:
    """Beginnings of held-out stories, or of Python functions and classes: half as many, for that pair is slower."""
    if name == "code":
        found = beginnings(pair)
        return [found[i % len(found)] for i in range(max(2, texts // 2))]
    return spread([ids[:PROMPT_TOKENS] for ids in held_out(name, pair, data) if len(ids) >= PROMPT_TOKENS], texts)


def blocks(settings: dict[str, int], rows: Sequence[Row], checks: Sequence[dict[str, Any]]) -> Iterator[str | Sheet]:
    """The report: a table per pair, temperature and part."""
    yield (
        f"{settings['texts']} prompts (half as many for the code pair) per pair and "
        f"temperature. Predicted from {SAMPLES} texts of {settings['new_tokens']} tokens per prompt that the target wrote, "
        f"measured on one text per prompt; one round each at {settings['places']} places. The rows of a table share the texts "
        "that they are predicted from, so their errors go together. Full distribution (no top-k, no top-p), "
        "end-of-sequence tokens ignored. ± is one standard error over texts; *off* is measured − predicted, in brackets in its "
        f"own standard errors; beyond {WIDE:g} it is marked !."
    )
    yield "\n".join(_verdict(rows))
    for check in checks:
        name, t = check["pair"], check["temperature"]
        yield f"## {name}, temperature {t:g}"
        for part, note in PARTS.items():
            told = [_cells(row) for row in rows if (row.pair, row.temperature, row.part) == (name, t, part)]
            if told:
                yield note
                yield table(["draft, rule", "by", "predicted", "measured", "rounds", "off"], told)
        said = (
            f"{depth} deep {c['said']['value']:.2f} for {c['true']['value']:.2f} "
            f"({c['off']['value']:+.2f} ± {c['off']['error']:.2f})"
            for depth, c in check["chains"].items()
        )
        yield f"The surrogate on block-verified chains, where the truth is known: {'; '.join(said)}."


def _verdict(rows: Sequence[Row]) -> Iterator[str]:
    for what, exact in (("Identities", True), ("Surrogate rows", False)):
        some = [row for row in rows if row.exact == exact and row.part != "shipped"]
        if some:
            wide = sum(row.wide for row in some)
            square = math.sqrt(sum(row.off_errors**2 for row in some) / len(some))
            relative = sum(row.off / row.measured.value for row in some) / len(some)
            yield (
                f"- {what}: {wide} of {len(some)} differences beyond {WIDE:g} standard errors; root mean square {square:.2f} "
                f"(1 is pure chance); (measured − predicted) / measured is {relative:+.1%} on average."
            )


def _cells(row: Row) -> list[str]:
    return [
        row.setup,
        "identity" if row.exact else "surrogate",
        f"{row.predicted.value:.3f} ± {row.predicted.error:.3f}",
        f"{row.measured.value:.3f} ± {row.measured.error:.3f}",
        str(row.measured.count),
        f"{row.off:+.3f} ({row.off_errors:+.1f}){' !' if row.wide else ''}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    quick = "6 texts, 12 places, the first pair and temperature"
    experiment = Experiment("prediction", "Predicted and measured acceptance", __doc__, quick)
    add = experiment.parser.add_argument
    add("--pair", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    add("--temperature", type=temperature, nargs="+", default=[1.0, 0.6], metavar="T")
    add("--texts", type=at_least(2), default=24, help="half of them for the code pair, which is slower")
    add("--new-tokens", type=at_least(16), default=64)
    add("--places", type=at_least(2), default=75)
    options = experiment.start(arguments)
    if options.quick:
        options.texts, options.places = 6, 12
        options.pair, options.temperature = options.pair[:1], options.temperature[:1]
    settings = {"texts": options.texts, "new_tokens": options.new_tokens, "places": options.places}
    rows: list[Row] = []
    checks: list[dict[str, Any]] = []
    for name in options.pair:
        pair = load_pair(name, options.data)
        prompts = prompts_of(name, pair, options.data, options.texts)
        for t in options.temperature:
            params = dg.SamplingParams(max_new_tokens=options.new_tokens, temperature=t, ignore_eos=True, seed=11)
            texts = own_texts(pair.engine(budget=0), prompts * SAMPLES, params)
            laws = read_rows(*pair.backends, texts, params, pair.vocab)
            study = Study(name, pair, prompts, params, laws, options.places)
            for setup in track(setups(), f"{name}, T={t:g}"):
                rows += study.of(setup)
            chains = {str(depth): asdict(check_on_chains(laws, depth, options.places)) for depth in (4, 8)}
            checks.append({"pair": name, "temperature": t, "chains": chains})
    results = {"settings": settings, "surrogate": checks, "rows": [asdict(row) for row in rows]}
    print(experiment.save(blocks(settings, rows, checks), **results))


if __name__ == "__main__":
    main()
