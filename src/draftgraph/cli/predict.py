"""draftgraph predict: what a pair will gain, before anything is decided."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from draftgraph.cli import options
from draftgraph.cli.program import app

OWN_SAMPLES = 32
TEXTS, SAMPLING = options.TEXTS, options.SAMPLING


@app.command("predict")
def predict_command(
    target: options.Target = None,
    drafter: options.Drafter = None,
    model: options.Model = None,
    draft_model: options.DraftModel = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    threads: options.Threads = None,
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    trust_remote_code: options.TrustRemoteCode = False,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            "--prompts",
            help="Natural texts: any file that bench reads (JSON, JSONL, blank-line-separated, or one per line).",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    own: Annotated[
        int | None,
        typer.Option(
            min=2, help=f"Texts that the target writes itself; {OWN_SAMPLES} without --text.", rich_help_panel=TEXTS
        ),
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=16, help="Tokens of such a text.", rich_help_panel=TEXTS)] = 128,
    temperature: options.Temperature = 1.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    seed: Annotated[int, typer.Option(help="Of the target's texts.", rich_help_panel=SAMPLING)] = 0,
    speed: Annotated[bool, typer.Option(help="Predict speed, by what passes cost here.")] = True,
    measure_too: Annotated[bool, typer.Option("--measure", help="Run the engine as well, and compare.")] = False,
    as_json: options.Json = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw it into this picture (needs matplotlib).", rich_help_panel=options.OUTPUT),
    ] = None,
) -> None:
    """Predict tokens per target call and speed of every structure and rule from one pass of both models over sample texts."""
    pair = options.sources(target, drafter, model, draft_model)
    chosen = options.Chosen(pair, dtype, device, threads, trust_remote_code, backend, weights)
    from draftgraph.cli.work.predict import make_params, run

    params = make_params(new_tokens, temperature, top_k, top_p, min_p, seed)
    run(chosen, params, text, own, speed, measure_too, as_json, plot)
