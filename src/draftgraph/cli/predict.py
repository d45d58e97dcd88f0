"""draftgraph predict: what a pair will gain, before anything is decided."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

import draftgraph as dg
from draftgraph.cli.app import app, reporting
from draftgraph.lab.pair import Pair
from draftgraph.lab.predict import report as predictions
from draftgraph.lab.predict.prediction import Prediction, measure, predict
from draftgraph.lab.predict.rows import read_rows
from draftgraph.lab.texts import Text, natural_texts, own_texts, read_texts
from draftgraph.view.status import silent_loading, status

SAMPLING, TEXTS, OUTPUT = "How to sample", "What to predict from", "What to print"
OWN_SAMPLES = 32
MEASURED = 16
"""Generations per row of --measure, at most."""


@app.command("predict")
def predict_command(
    target: Annotated[str, typer.Argument(help="Target: a folder or hub name.")],
    drafter: Annotated[str, typer.Argument(help="Drafter with the target's tokenizer.")],
    text: Annotated[
        Path | None,
        typer.Option(help="Natural texts: .jsonl, blank-line-separated, or one per line.", rich_help_panel=TEXTS),
    ] = None,
    own: Annotated[
        int | None,
        typer.Option(
            min=2, help=f"Texts that the target writes itself; {OWN_SAMPLES} without --text.", rich_help_panel=TEXTS
        ),
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=16, help="Tokens of such a text.", rich_help_panel=TEXTS)] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel=SAMPLING)] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 is off.", rich_help_panel=SAMPLING)] = 0,
    top_p: Annotated[float, typer.Option(help="Keep this much probability.", rich_help_panel=SAMPLING)] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Drop tokens below this share of the best.", rich_help_panel=SAMPLING)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the target's texts.", rich_help_panel=SAMPLING)] = 0,
    speed: Annotated[bool, typer.Option(help="Predict speed, by what passes cost here.")] = True,
    measure_too: Annotated[bool, typer.Option("--measure", help="Run the engine as well, and compare.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw it into this picture (needs matplotlib).", rich_help_panel=OUTPUT)
    ] = None,
) -> None:
    """Predict tokens per target call and speed of every structure and rule from one pass of both models over sample texts."""
    with reporting():
        params = dg.SamplingParams(
            max_new_tokens=new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed
        )
        natural = [] if text is None else read_texts(text)
        if plot is not None:
            predictions.need_matplotlib()
        if threads is not None:
            torch.set_num_threads(threads)
        with status("loading the pair", as_json) as tell, silent_loading():
            pair = Pair.load(target, drafter)
            prediction = _predict(pair, pair.encode(natural), own, params, speed, measure_too, tell)
        if plot is not None:
            predictions.draw(prediction, plot)
        if as_json:
            typer.echo(json.dumps(_finite(prediction.to_dict())))
        else:
            Console().print(predictions.report(prediction))


def _predict(
    pair: Pair,
    natural: list[list[int]],
    own: int | None,
    params: dg.SamplingParams,
    speed: bool,
    measured: bool,
    tell: Any,
) -> Prediction:
    prompts = pair.prompts(own or OWN_SAMPLES, natural) if own or measured or not natural else []
    room = pair.window - max(map(len, prompts), default=0)
    params = replace(params, max_new_tokens=min(params.max_new_tokens, room))
    texts: list[Text]
    if natural and own is None:
        source, texts = "natural", natural_texts(natural, pair.window)
    else:
        tell(f"letting the target write {len(prompts)} texts")
        source, texts = "own", own_texts(pair.engine(budget=0), prompts, params)
    tell(f"reading {len(texts)} texts with both models")
    rows = read_rows(pair.target, pair.drafter, texts, params, pair.vocab)
    tell("measuring what rounds cost, once per pair and machine")
    costs = pair.engine().costs.at(params.temperature) if speed else None
    prediction = predict(rows, source, params.temperature, costs, tell)
    if measured:
        again = replace(params, seed=(params.seed or 0) + 1)
        prediction = replace(prediction, rows=measure(prediction.rows, pair.engine, prompts[:MEASURED], again, tell))
    return prediction


def _finite(value: Any) -> Any:
    """Numbers that JSON can say: NaN (an error over one text) becomes null."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
