"""draftgraph beams at work: the engine, the beams, what is printed."""

from __future__ import annotations

import json

import typer

from draftgraph.cli.options import Chosen
from draftgraph.cli.work.engines import load_engine, place
from draftgraph.engine.config import Config
from draftgraph.request.beams import BeamResult
from draftgraph.sampling.beam_params import BeamParams


def run(chosen: Chosen, text: str, params: BeamParams, search: bool, as_json: bool) -> None:
    """Raises OptionError, PromptError, ModelError."""
    place(chosen)
    # Rows need not agree bit for bit: beams share passes, and near ties are what `numerics` says.
    engine = load_engine(chosen, Config(bitwise=False), quiet=as_json)
    result = engine.beam_search(text, params) if search else engine.beam_sample(text, params)
    typer.echo(json.dumps(result.to_dict()) if as_json else _drawn(text, result))


def _drawn(text: str, result: BeamResult) -> str:
    stats = result.stats
    beams = [f"[{i}] {beam.score:.4f}  {text}{beam.text}" for i, beam in enumerate(result.beams, 1)]
    said = f"{stats.num_layers} layers of {stats.num_beams} beams in {stats.num_target_calls} target calls, seed {result.seed}"
    return "\n\n".join([*beams, said])
