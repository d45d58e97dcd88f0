"""draftgraph pair-check and draftgraph doctor: can this pair run here, and does it pay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import draftgraph as dg
from draftgraph.cli import options
from draftgraph.cli.program import FAILED, app

TEXTS = options.TEXTS


@app.command("pair-check")
def pair_check(
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
    as_json: options.Json = False,
) -> None:
    """Check every rule of what can run, in seconds and without generating; exit code 1 if one fails."""
    pair = options.sources(target, drafter, model, draft_model)
    chosen = options.Chosen(pair, dtype, device, threads, trust_remote_code, backend, weights)
    from draftgraph.cli.work.doctor import run_check

    raise typer.Exit(0 if run_check(chosen, as_json) else FAILED)


@app.command()
def doctor(
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
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A prompt as your users write it (may be repeated).", rich_help_panel=TEXTS),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", "--prompts", help="Prompts: any file that bench reads.", rich_help_panel=TEXTS),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Lay prompts out as messages; where the tokenizer has a chat template without.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    limit: Annotated[float, typer.Option(min=1.0, help="Seconds to spend, about.", rich_help_panel=TEXTS)] = 60.0,
    temperature: Annotated[
        float, typer.Option(help="Measured beside temperature 0.", rich_help_panel=options.SAMPLING)
    ] = 1.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    seed: Annotated[int, typer.Option(help="Of the texts.", rich_help_panel=options.SAMPLING)] = 0,
    rule: options.RuleName = "auto",
    structure: options.Structure = "auto",
    budget: options.Budget = "auto",
    prediction: options.Prediction = None,
    as_json: options.Json = False,
) -> None:
    """Can these models run together, does speculation pay on this machine, and what to try instead; in about a minute.

    With --rule, --structure, --budget or --prediction, what they say is measured beside the other ways.

    Exit code 0 if they run, whether it pays or not; 1 if they cannot run.
    """
    pair = options.sources(target, drafter, model, draft_model)
    chosen = options.Chosen(pair, dtype, device, threads, trust_remote_code, backend, weights)
    params = dg.SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    from draftgraph.cli.work.doctor import Order, run

    drafting = options.Drafting(rule, structure, budget, prediction)
    order = Order(prompt or (), text, chat, limit, params, drafting)
    raise typer.Exit(0 if run(chosen, order, as_json) else FAILED)
