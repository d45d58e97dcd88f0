"""Does speculation pay for these models on this machine: predicted, then measured on whole requests.

Several ways to draft take turns with plain decoding; the one that did best is then measured again on fresh turns, and only those
are reported as its speed-up. (The best of several noisy figures flatters; a fresh one does not.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig

from draftgraph.budget.costs import Costs
from draftgraph.engine.engine import Engine
from draftgraph.lab.doctor.checks import Checkup
from draftgraph.lab.doctor.prompts import Prompts
from draftgraph.lab.doctor.ways import PLAIN, Measured, Way, summarise, unrest
from draftgraph.lab.pair import Pair
from draftgraph.lab.predict.prediction import Prediction, Row, Tell, predict, written
from draftgraph.lab.predict.rows import read_rows
from draftgraph.lab.texts import own_texts
from draftgraph.lab.turns import Turn, run, share_of_core, take_turns
from draftgraph.sampling.params import SamplingParams

TOKENS = (16, 64)
"""New tokens per measured request: fewer where the target is slow."""
MIN_TURNS = 3
"""Turns that are taken whatever the time limit says; a spread needs them."""
TURN_SHARE = 0.02
"""Share of the time limit that one plainly decoded request may take."""
PREDICTION_TOKENS = 1500
"""Plainly decoded tokens that take about as long as a prediction does."""
PREDICTION_SHARE = 0.5
OWN_SAMPLES = 8
CHOOSING = 0.6
"""Share of the measuring time in which all ways take turns; the rest confirms the best one."""
UNREST = 1.5
"""If plain decoding of one prompt takes so many times longer in one turn than in another, others were using the machine."""
SHARE_OF_CORE = 0.9
"""On a CPU, if this thread had a core for less of the time, others wanted it."""
ASKED = "as asked"
"""The way to draft that the user wrote."""
WORTH = 1.05
"""Speed-ups below this are not worth a second model."""


@dataclass(frozen=True)
class Finding:
    """What was found at one temperature.

    tried    every way, over the choosing turns. chosen  the best of them, over fresh turns.
    prediction   None without a drafter, or if the time limit left no room.
    needed   chance of keeping one drafted token at which the best chain would break even, if every token is kept with that
             chance; infinite if none would do, None without a prediction.
    """

    temperature: float
    tried: Sequence[Measured]
    chosen: Measured
    prediction: Prediction | None
    needed: float | None

    @property
    def pays(self) -> str:
        """ "yes" on at least nine turns of ten, "mostly" by the median, or "no"."""
        if self.chosen.speedup.median < WORTH:
            return "no"
        return "yes" if self.chosen.speedup.low >= 1.0 else "mostly"

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {**asdict(one), "options": written(one.options), "break_even": one.break_even}
            for one in (*self.tried, self.chosen)
        ]
        profile = None if self.prediction is None else self.prediction.profile
        return {
            "temperature": self.temperature,
            "pays": self.pays,
            "chosen": rows[-1],
            "tried": rows[:-1],
            "overlap": None if profile is None else profile.overlap.value,
            "needed_overlap": self.needed if self.needed != math.inf else None,
        }


@dataclass(frozen=True)
class Diagnosis:
    """costs  of the pair's rounds at temperatures above 0, from the engine's own table; None if nothing was predicted.

    unrest  of plain decoding over all turns. share_of_core  over all turns, 1 where the models are not on a CPU.

    tokens  per request. threads  of torch. dtype  of the target. prompts  what was continued.
    """

    findings: Sequence[Finding]
    costs: Costs | None
    unrest: float
    share_of_core: float
    tokens: int
    threads: int
    dtype: str
    seconds: float
    prompts: Prompts

    @property
    def busy(self) -> bool:
        """Whether others were using the machine, so that no figure here should be trusted."""
        return self.unrest > UNREST or self.share_of_core < SHARE_OF_CORE

    def to_dict(self) -> dict[str, Any]:
        return {
            "temperatures": [one.to_dict() for one in self.findings],
            "costs": None if self.costs is None else self.costs.to_dict(),
            "busy": self.busy,
            "unrest": self.unrest,
            "share_of_core": self.share_of_core,
            "new_tokens": self.tokens,
            "threads": self.threads,
            "dtype": self.dtype,
            "seconds": self.seconds,
            "prompts": self.prompts.to_dict(),
        }


@dataclass(frozen=True)
class Own:
    """A way to draft of the user's: options of `Config`, and how they were written."""

    options: dict[str, Any]
    written: dict[str, Any]

    def way(self, checkup: Checkup, params: SamplingParams) -> Way:
        """Raises OptionError if the models cannot draft so."""
        drafter = None
        if checkup.drafter is not None and self.options.get("drafter") in (None, "model"):
            drafter = checkup.drafter.made_of
        options = {**self.options, **checkup.options, "tokenizer": checkup.target.tokenizer}
        engine = Engine.from_pretrained(checkup.target.made_of, draft_model=drafter, **options)
        return Way(ASKED, engine, params, self.written)


def diagnose(
    checkup: Checkup,
    asked: Prompts,
    temperatures: Sequence[float],
    params: SamplingParams,
    limit: float,
    tell: Tell,
    own: Own | None = None,
) -> Diagnosis:
    """Predict and measure models that `checkup` found to run, within about `limit` seconds.

    asked  the prompts. params  its filters and seed are used, at every one of `temperatures`. own  a way to draft that is
    tried beside the others.
    """
    begun = time.perf_counter()
    pair = None if checkup.drafter is None else checkup.pair()
    alike = {"tokenizer": checkup.target.tokenizer, "generation_config": GenerationConfig(), **checkup.options}
    lookup = Engine.from_pretrained(checkup.target.made_of, **alike)
    plain = Engine.from_pretrained(checkup.target.made_of, **alike, budget=0)
    given = [] if own is None else [own.way(checkup, params)]
    pace = _pace(plain, params, asked.ids[0], tell)
    tokens = int(min(max(TURN_SHARE * limit / pace, TOKENS[0]), TOKENS[1]))
    params = replace(params, max_new_tokens=tokens, ignore_eos=True)
    costs: Costs | None = None
    if pair is not None and pace * PREDICTION_TOKENS < PREDICTION_SHARE * limit:
        tell("measuring what rounds cost, once per pair and machine")
        costs = pair.engine().costs
    levels = [replace(params, temperature=temperature) for temperature in temperatures]
    # All predictions come first: what they take is known, and the measurements share what is left.
    predictions = [_predict(pair, asked.ids, at, costs, tell) for at in levels]
    found: list[Finding] = []
    turns: list[Turn] = []
    for i, (at, prediction) in enumerate(zip(levels, predictions, strict=True)):
        left = max(0.0, begun + limit - time.perf_counter()) / (len(levels) - i)
        ways = [*_ways(pair, plain, lookup, prediction, at), *(replace(way, params=at) for way in given)]
        finding, taken = _measure(ways, asked.ids, left, prediction, tell)
        found.append(finding)
        turns += taken
    core = share_of_core([timed for turn in turns for timed in turn.timed.values()]) if checkup.on_cpu else 1.0
    dtype = str(_loaded(checkup).dtype).removeprefix("torch.")
    seconds = time.perf_counter() - begun
    return Diagnosis(found, costs, unrest(turns), core, tokens, torch.get_num_threads(), dtype, seconds, asked)


def _pace(plain: Engine, params: SamplingParams, prompt: Sequence[int], tell: Tell) -> float:
    """Seconds per token without drafts, after a request that warms up."""
    tell("warming up")
    warm_up = Way(PLAIN, plain, replace(params, max_new_tokens=TOKENS[0], temperature=0.0, ignore_eos=True))
    return min(run(warm_up, prompt, seed=0).pace for _ in range(2))


def _loaded(checkup: Checkup) -> Any:
    assert checkup.target.model is not None
    return checkup.target.model


def _predict(
    pair: Pair | None, prompts: Sequence[Sequence[int]], params: SamplingParams, costs: Costs | None, tell: Tell
) -> Prediction | None:
    """What the pair would do at one temperature; None without a pair of models, or without costs."""
    if pair is None or pair.drafter is None or costs is None:
        return None
    tell(f"predicting, temperature {params.temperature:g}")
    starts = [prompts[i % len(prompts)] for i in range(max(OWN_SAMPLES, len(prompts)))]
    texts = own_texts(pair.engine(budget=0), starts, params)
    rows = read_rows(*pair.backends, texts, params, pair.vocab)
    return predict(rows, "own", params.temperature, costs.at(params.temperature), tell, pair.branches)


def _ways(
    pair: Pair | None, plain: Engine, lookup: Engine, prediction: Prediction | None, params: SamplingParams
) -> list[Way]:
    """Plain decoding, then what is worth trying: the defaults, the predicted best, its best chain, a small budget, no drafter."""
    ways = [Way(PLAIN, plain, params)]
    if pair is not None:
        ways.append(Way("defaults", pair.engine(), params))
    if pair is not None and prediction is None:
        small: dict[str, Any] = {"structure": "chain", "budget": 3}
        ways.append(Way("chain 3", pair.engine(**small), params, small))
    if pair is not None and prediction is not None:
        for row in {row.draft: row for row in (prediction.best, best_chain(prediction))}.values():
            speedup = None if row.pace is None else row.pace.speedup
            ways.append(Way(f"{row.draft}, {row.rule}", pair.engine(**row.options), params, row.options, speedup))
    return [*ways, Way("lookup", lookup, params, {"drafter": "lookup"})]


def best_chain(prediction: Prediction) -> Row:
    chains = [row for row in prediction.rows if row.draft.startswith("chain")]
    return max(chains, key=lambda row: row.pace.speedup if row.pace else row.tokens.value)


def _measure(
    ways: Sequence[Way],
    prompts: Sequence[Sequence[int]],
    seconds: float,
    prediction: Prediction | None,
    tell: Tell,
) -> tuple[Finding, list[Turn]]:
    plain, *others = ways
    temperature, seed = plain.params.temperature, plain.params.seed or 0
    tell(f"measuring {len(others)} ways beside plain decoding, temperature {temperature:g}")
    begun = time.perf_counter()
    turns = list(take_turns(ways, prompts, MIN_TURNS, CHOOSING * seconds, seed=seed))
    tried = [summarise(way, turns) for way in others]
    best = max(range(len(tried)), key=lambda i: tried[i].speedup.median)
    tell(f"measuring {tried[best].name} again, temperature {temperature:g}")
    left = seconds + begun - time.perf_counter()
    fresh = list(take_turns([plain, others[best]], prompts, MIN_TURNS, left, first=len(turns), seed=seed))
    needed = None if prediction is None else _needed(best_chain(prediction))
    return Finding(temperature, tried, summarise(others[best], fresh), prediction, needed), [*turns, *fresh]


def _needed(chain: Row) -> float:
    """The chance α with 1 + α + … + α^k = the break-even of a chain of k tokens; infinite beyond k + 1."""
    assert chain.pace is not None
    depth, wanted = len(chain.level_rows), chain.pace.break_even
    if wanted > depth + 1:
        return math.inf
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(middle**i for i in range(depth + 1)) < wanted else (low, middle)
    return high
