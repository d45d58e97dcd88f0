"""What a trained drafter is worth on this machine beside lookup, which needs no training: real requests on held-out prompts.

Ways to draft take turns with plain decoding on the same prompts. Beside the time that was measured stands what the engine's own
table of costs says of the rounds that were taken: others who use the machine disturb that figure less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from draftgraph.budget.costs import Costs
from draftgraph.engine.engine import Engine
from draftgraph.lab.doctor.ways import Spread, spread
from draftgraph.lab.predict.estimate import Estimate, ratio
from draftgraph.lab.turns import Answer, Turn, take_turns
from draftgraph.request.record import RoundRecord
from draftgraph.request.result import Result
from draftgraph.sampling.params import SamplingParams

PLAIN, TRAINED, LOOKUP, BOTH = "plain", "trained", "lookup", "both"
TEMPERATURES = (0.0, 1.0)
TOKENS = (16, 64)
"""New tokens of a request, at least and at most: fewer where the target is slow."""
SECONDS = 180.0
"""That all turns take, about."""
TURN_SHARE = 0.01
"""Share of those seconds that one plainly decoded request may take."""
TURNS = 6
"""Turns at one temperature that are taken whatever the seconds say."""
MOST_PROMPTS = 24
PAYS = 1.05
"""Times plain below which drafting is not worth it."""
ERRORS = 2.0
"""Standard errors on both sides of a figure that its interval has."""


@dataclass
class Way:
    """An engine that takes turns. results  of all its requests, in their order."""

    name: str
    engine: Engine
    params: SamplingParams
    results: list[Result] = field(default_factory=list)

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        """Continue a prompt (see `lab.turns.Contender`)."""
        result = self.engine.generate(list(prompt), replace(self.params, seed=seed))
        self.results.append(result)
        return Answer(result.token_ids, result.stats.num_rounds, result.stats.num_verified_nodes)


@dataclass(frozen=True)
class Worth:
    """What a way to draft did at one temperature.

    tokens     per target call.
    predicted  times plain decoding's speed, by the engine's costs of the rounds that were taken.
    times      the same as timed, whole requests in turns.
    """

    name: str
    options: dict[str, Any]
    tokens: Estimate
    predicted: Estimate
    times: Spread

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tokens": interval(self.tokens), "predicted": interval(self.predicted)}

    def __str__(self) -> str:
        times, tokens = (f"{each.value:.2f} ({_between(each)})" for each in (self.predicted, self.tokens))
        timed = f"{self.times.median:.2f} ({self.times.low:.2f}–{self.times.high:.2f})"
        return f"{self.name} {times} times plain, {tokens} tokens per call, timed {timed}"


@dataclass(frozen=True)
class Verdict:
    """The ways to draft at one temperature."""

    temperature: float
    ways: Sequence[Worth]

    @property
    def best(self) -> str:
        """The fastest way by the costs of its rounds, `PLAIN` where none pays."""
        fastest = max(self.ways, key=lambda way: way.predicted.value)
        return fastest.name if fastest.predicted.value >= PAYS else PLAIN

    @property
    def told(self) -> str:
        """The figures, and what follows from them."""
        return f"at temperature {self.temperature:g}: {'; '.join(map(str, self.ways))}. {ADVICE[self.best]}"

    def to_dict(self) -> dict[str, Any]:
        ways = {way.name: way.to_dict() for way in self.ways}
        return {"temperature": self.temperature, "ways": ways, "best": self.best, "told": self.told}


ADVICE = {
    PLAIN: "Nothing pays here: decode without drafts (budget=0), or train on more answers.",
    LOOKUP: "Lookup alone does better here: leave the drafter out, or train on more answers.",
    TRAINED: "The drafter without copies of the text does best here: use it with edges=().",
    BOTH: "The drafter does best here as it is used by default.",
}
"""What follows, by the best way."""


def weigh(
    source: str | Path | PreTrainedModel,
    drafter: Path,
    prompts: Sequence[Sequence[int]],
    options: Mapping[str, Any],
    tell: Callable[[str], None] = lambda line: None,
) -> list[Verdict]:
    """Measure a drafter in a folder beside lookup, at temperatures 0 and 1.

    source   the target: folder, hub name or loaded model. prompts  token ids, of which the drafter has learnt nothing.
    options  of `Engine.from_pretrained` for all ways.
    """
    tell("measuring what rounds cost, once per drafter and machine")
    given: dict[str, dict[str, Any]] = {
        TRAINED: {"draft_model": str(drafter), "edges": ()},
        LOOKUP: {"drafter": "lookup"},
        BOTH: {"draft_model": str(drafter)},
    }
    made = {name: Engine.from_pretrained(source, **said, **options) for name, said in given.items()}
    plain = Engine.from_pretrained(source, budget=0, **options)
    tokens = int(min(max(TURN_SHARE * SECONDS / made[LOOKUP].costs.plain, TOKENS[0]), TOKENS[1]))
    window = plain.target.context_window
    tokens = tokens if window is None else min(tokens, window // 2)
    few = [list(prompt if window is None else prompt[-(window - tokens) :]) for prompt in prompts[:MOST_PROMPTS]]
    found = []
    for temperature in TEMPERATURES:
        tell(f"measuring {', '.join(made)} beside plain decoding, temperature {temperature:g}")
        params = SamplingParams(max_new_tokens=tokens, temperature=temperature)
        ways = [Way(name, engine, params) for name, engine in made.items()]
        without = Way(PLAIN, plain, params)
        turns = list(take_turns([without, *ways], few, TURNS, SECONDS / len(TEMPERATURES)))
        found.append(Verdict(temperature, [_summed(way, without, given[way.name], turns) for way in ways]))
    return found


def _summed(way: Way, plain: Way, options: dict[str, Any], turns: Sequence[Turn]) -> Worth:
    costs = way.engine.costs.at(way.params.temperature)
    results, references = way.results[1:], plain.results[1:]  # the first ones have warmed up
    tokens = [float(len(result.token_ids)) for result in results]
    rounds = [float(result.stats.num_rounds) for result in results]
    paces = [request_seconds(costs, result) / len(result.token_ids) for result in references]
    instead = [pace * count for pace, count in zip(paces, tokens, strict=True)]
    return Worth(
        way.name,
        options,
        ratio(tokens, rounds, int(sum(rounds))),
        ratio(instead, [request_seconds(costs, result) for result in results], int(sum(rounds))),
        spread([turn.timed[PLAIN].pace / turn.timed[way.name].pace for turn in turns]),
    )


def request_seconds(costs: Costs, result: Result) -> float:
    """Seconds of a request by a table of costs; the first round as timed, for the prompt is read in it."""
    first, *others = result.rounds
    return sum(first.seconds.values()) + sum(spent(costs, record) for record in others)


def spent(costs: Costs, record: RoundRecord) -> float:
    """Seconds of a round by a table of costs."""
    nodes, passes = len(record.tokens), record.num_passes
    rows = record.num_evaluations / passes if passes else 0.0
    return costs.round(nodes, [rows] * passes) if passes else costs.whole(nodes)


def interval(estimate: Estimate) -> dict[str, Any]:
    """An estimate with the interval that another measurement should fall into, in plain types; without one for a single text."""
    known = math.isfinite(estimate.error)
    low, high = (estimate.value + sign * ERRORS * estimate.error if known else None for sign in (-1.0, 1.0))
    return {"value": estimate.value, "low": low, "high": high, "requests": estimate.texts, "rounds": estimate.count}


def _between(estimate: Estimate) -> str:
    said = interval(estimate)
    return "one request" if said["low"] is None else f"{said['low']:.2f}–{said['high']:.2f}"
