"""draftgraph predict at work: texts, rows, costs, prediction, report."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from draftgraph.cli.options import Chosen
from draftgraph.cli.work.engines import place
from draftgraph.cli.work.texts import read_file
from draftgraph.errors import OptionError
from draftgraph.lab.pair import Pair
from draftgraph.lab.predict import report as predictions
from draftgraph.lab.predict.prediction import Prediction, Tell, measure, predict
from draftgraph.lab.predict.rows import read_rows
from draftgraph.lab.texts import Text, natural_texts, own_texts
from draftgraph.sampling.params import SamplingParams
from draftgraph.view.console import print_report
from draftgraph.view.status import silent_loading, status

OWN_SAMPLES = 32
MEASURED = 16
"""Generations per row of --measure, at most."""


def make_params(tokens: int, temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> SamplingParams:
    """Checked options of the target's texts. Raises OptionError."""
    return SamplingParams(
        max_new_tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed
    )


def run(
    chosen: Chosen,
    params: SamplingParams,
    text: Path | None,
    own: int | None,
    speed: bool,
    measured: bool,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Predict and report. Raises OptionError, ModelError or PairError."""
    target, drafter = chosen.pair
    if drafter is None:
        raise OptionError("a drafter is needed to predict what it gains; write predict TARGET DRAFTER")
    natural = [] if text is None else read_file(text).texts
    if plot is not None:
        predictions.need_matplotlib()
    place(chosen)
    with status("loading the pair", as_json) as say, silent_loading():
        pair = Pair.load(target, drafter, chosen.dtype, chosen.device, chosen.trusted, chosen.loading)
        prediction = _predict(pair, pair.encode(natural), own, params, speed, measured, say)
    if plot is not None:
        predictions.draw(prediction, plot)
    if as_json:
        typer.echo(json.dumps(_finite(prediction.to_dict())))
    else:
        print_report([predictions.report(prediction)])


def _predict(
    pair: Pair,
    natural: list[list[int]],
    own: int | None,
    params: SamplingParams,
    speed: bool,
    measured: bool,
    say: Tell,
) -> Prediction:
    prompts = pair.prompts(own or OWN_SAMPLES, natural) if own or measured or not natural else []
    room = pair.window - max(map(len, prompts), default=0)
    params = replace(params, max_new_tokens=min(params.max_new_tokens, room))
    texts: list[Text]
    if natural and own is None:
        source, texts = "natural", natural_texts(natural, pair.window)
    else:
        say(f"letting the target write {len(prompts)} texts")
        source, texts = "own", own_texts(pair.engine(budget=0), prompts, params)
    say(f"reading {len(texts)} texts with both models")
    rows = read_rows(*pair.backends, texts, params, pair.vocab)
    say("measuring what rounds cost, once per pair and machine")
    costs = pair.engine().costs.at(params.temperature) if speed else None
    prediction = predict(rows, source, params.temperature, costs, say, pair.branches)
    if measured:
        again = replace(params, seed=(params.seed or 0) + 1)
        prediction = replace(prediction, rows=measure(prediction.rows, pair.engine, prompts[:MEASURED], again, say))
    return prediction


def _finite(value: Any) -> Any:
    """Numbers that JSON can say: NaN (an error over one text) becomes null."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
