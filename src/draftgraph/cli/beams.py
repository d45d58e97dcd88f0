"""draftgraph beams: a prompt in, several texts with their scores out."""

from __future__ import annotations

from typing import Annotated

import typer

import draftgraph as dg
from draftgraph.cli import options
from draftgraph.cli.generate import read_prompt
from draftgraph.cli.program import app
from draftgraph.errors import OptionError

SAMPLING, DRAFTING = options.SAMPLING, options.DRAFTING
BEAMS = "Which beams"


@app.command("beams")
def beams_command(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input, as it is.")],
    model: options.Model = None,
    draft_model: options.DraftModel = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    threads: options.Threads = None,
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    trust_remote_code: options.TrustRemoteCode = False,
    num_beams: Annotated[int, typer.Option("--beams", help="Beams of every layer.", rich_help_panel=BEAMS)] = 4,
    search: Annotated[
        bool,
        typer.Option(
            "--search", help="Take the best beams, as transformers does, and draw none.", rich_help_panel=BEAMS
        ),
    ] = False,
    num_return_sequences: Annotated[
        int | None, typer.Option(help="Beams that are printed; all of them without.", rich_help_panel=BEAMS)
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            help="Scores are divided by length ** this; the model's own without, or 1.", rich_help_panel=BEAMS
        ),
    ] = None,
    early_stopping: Annotated[
        str | None, typer.Option(help="true, false or never; the model's own without.", rich_help_panel=BEAMS)
    ] = None,
    width: Annotated[
        str,
        typer.Option(help="Of drafted layers: full, or as threshold or mean predict.", rich_help_panel=BEAMS),
    ] = "full",
    threshold: Annotated[
        float, typer.Option(help="For --width threshold: a width is reached so often.", rich_help_panel=BEAMS)
    ] = 0.7,
    least_beams: Annotated[
        int | None, typer.Option(help="Beams of a drafted layer at least.", rich_help_panel=BEAMS)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens at most.", rich_help_panel=SAMPLING)] = 128,
    temperature: Annotated[float, typer.Option("--temperature", help="Above 0.", rich_help_panel=SAMPLING)] = 1.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="1 is none; the model's own without.", rich_help_panel=SAMPLING)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same beams.", rich_help_panel=SAMPLING)] = None,
    num_speculative_tokens: Annotated[
        int | None, typer.Option(help="Layers that are drafted per target call; 0 is none.", rich_help_panel=DRAFTING)
    ] = None,
    draft_beams: Annotated[
        int | None, typer.Option(help="Pairs that are drafted per layer.", rich_help_panel=DRAFTING)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Sample beams, or search for the best ones; without --model with the small pair that ships with draftgraph."""
    pair = options.sources(None, None, model, draft_model)
    chosen = options.Chosen(pair, dtype, device, threads, trust_remote_code, backend, weights)
    if search:
        _refuse_sampling(**{"--top-k": top_k, "--top-p": top_p - 1.0, "--min-p": min_p, "--width": width != "full"})
    elif temperature == 0:
        raise OptionError("--temperature 0 leaves nothing to sample; write --search")
    text = read_prompt(prompt)
    returned = num_beams if num_return_sequences is None else num_return_sequences
    params = dg.BeamParams(
        num_beams=num_beams,
        num_return_sequences=returned,
        length_penalty=length_penalty,
        early_stopping=None if early_stopping is None else options.as_switch(early_stopping),
        width=width,
        threshold=threshold,
        least_beams=(1 if width == "full" else returned) if least_beams is None else least_beams,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        num_speculative_tokens=num_speculative_tokens,
        draft_beams=draft_beams,
    )
    from draftgraph.cli.work.beams import run

    run(chosen, text, params, search, as_json)


def _refuse_sampling(**given: float) -> None:
    """Refuse options that only draws follow. given  by name; 0 where it is left out."""
    for name, value in given.items():
        if value:
            raise OptionError(f"{name} is for sampling, and --search takes the best beams; leave one of them out")
