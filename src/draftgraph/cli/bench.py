"""draftgraph bench: speed and acceptance against other decoders, on the user's own prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from draftgraph.cli import options
from draftgraph.cli.program import app

WORK, FIELD, OUTPUT = "What to generate", "Who is measured", options.OUTPUT


@app.command("bench")
def bench_command(
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
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Spec-Bench, MT-bench, HumanEval, other JSON or JSONL, or plain text (may be repeated); bundled ones without.",
            rich_help_panel=WORK,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Prompts per file and task, at most.", rich_help_panel=WORK)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens everybody generates.", rich_help_panel=WORK)] = 64,
    temperature: Annotated[
        list[float] | None, typer.Option(help="May be repeated; 0 and 1 without.", rich_help_panel=WORK)
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Turns per prompt.", rich_help_panel=WORK)] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampled texts.", rich_help_panel=WORK)] = 0,
    ours: Annotated[
        list[str] | None,
        typer.Option(
            help="Also draftgraph so: structure=chain,budget=4,rule=block (may be repeated).", rich_help_panel=FIELD
        ),
    ] = None,
    rule: options.RuleName = "auto",
    structure: options.Structure = "auto",
    budget: options.Budget = "auto",
    prediction: options.Prediction = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Also economize, openvino, llama.cpp, vllm: NAME or NAME=WEIGHTS[,DRAFTER] (may be repeated).",
            rich_help_panel=FIELD,
        ),
    ] = None,
    num_assistant_tokens: Annotated[
        list[int] | None,
        typer.Option(
            help="Tokens that transformers and peers draft, constantly (may be repeated); 4 without.",
            rich_help_panel=FIELD,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write bench.json, bench.md and bench.png here.", rich_help_panel=OUTPUT)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure draftgraph against transformers and other decoders: same weights, same prompts, in turns in one process.

    With --rule, --structure, --budget or --prediction, draftgraph is measured once more as they say.

    Exit code 1 if a greedy text of draftgraph is not the target's own (beyond near ties, in float32).

    Ctrl-C ends it with a report of what was measured so far.
    """
    chosen = options.Chosen(
        options.sources(target, drafter, model, draft_model),
        dtype,
        device,
        threads,
        trust_remote_code,
        backend,
        weights,
    )
    from draftgraph.cli.work.bench import Order, run

    order = Order(
        prompts or (),
        limit,
        max_new_tokens,
        temperature,
        repeats,
        seed,
        ours or (),
        options.Drafting(rule, structure, budget, prediction),
        peer or (),
        num_assistant_tokens,
        out,
    )
    raise typer.Exit(run(chosen, order, as_json))
