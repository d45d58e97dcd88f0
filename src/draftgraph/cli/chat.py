"""draftgraph chat: a conversation in the terminal, with a model here or behind a server."""

from __future__ import annotations

from typing import Annotated

import typer

from draftgraph.cli import options
from draftgraph.cli.program import app
from draftgraph.errors import OptionError

SERVER = "With a server"


@app.command()
def chat(
    model: options.Model = None,
    draft_model: options.DraftModel = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    threads: options.Threads = None,
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    draft_weights: options.DraftWeights = None,
    trust_remote_code: options.TrustRemoteCode = False,
    server: Annotated[
        str | None,
        typer.Option(help="Its address, e.g. http://127.0.0.1:8000/v1, instead of a model.", rich_help_panel=SERVER),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="DRAFTGRAPH_API_KEY", show_envvar=True, help="Its key.", rich_help_panel=SERVER)
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system message before everything.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of an answer at most.", rich_help_panel=options.SAMPLING)
    ] = 512,
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 1.0,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answers.", rich_help_panel=options.SAMPLING)] = None,
    rule: options.RuleName = "auto",
    structure: options.Structure = "auto",
    budget: options.Budget = "auto",
    bitwise: options.Bitwise = "auto",
    judge: options.Judge = None,
    threshold: options.Threshold = None,
    schedule: options.Schedule = "sequential",
) -> None:
    """Talk to a model; answers come as they are made, with their speed. Ctrl-C stops an answer, Ctrl-D ends the conversation."""
    if server is not None and (model is not None or draft_model is not None):
        raise OptionError("--server answers with its own model; leave --model and --draft-model out")
    asked = {"temperature": temperature, "top_p": top_p, "seed": seed, "max_tokens": max_new_tokens}
    if server is not None:
        from draftgraph.cli.work.chat import converse
        from draftgraph.cli.work.chat_server import ServerSpeaker

        with ServerSpeaker(server, api_key, asked) as speaker:
            converse(speaker, system)
        return
    chosen = options.Chosen(
        options.sources(None, None, model, draft_model),
        dtype,
        device,
        threads,
        trust_remote_code,
        backend,
        weights,
        draft_weights,
    )
    from draftgraph.cli.work.chat import LocalSpeaker, converse
    from draftgraph.cli.work.engines import load_engine, make_config, place

    place(chosen)
    config = make_config(options.Drafting(rule, structure, budget, None, bitwise, judge, threshold, schedule))
    converse(LocalSpeaker(load_engine(chosen, config, quiet=False), chosen.title, asked), system)
