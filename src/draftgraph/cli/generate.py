"""draftgraph generate: a prompt in, text out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

import draftgraph as dg
from draftgraph.cli.app import app, reporting
from draftgraph.data import bundled_pair
from draftgraph.errors import DraftgraphError, OptionError, PromptError
from draftgraph.request.result import Stream
from draftgraph.view import tracefile
from draftgraph.view.printing import Printer, make_printer
from draftgraph.view.status import silent_loading, status

SAMPLING, DRAFTING, OUTPUT = "How to sample", "How to draft and verify", "What to print"


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input, as it is.")],
    model: Annotated[str | None, typer.Option(help="Target: a folder or hub name; the bundled pair without.")] = None,
    draft_model: Annotated[str | None, typer.Option(help="Drafter with the target's tokenizer.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens at most.", rich_help_panel=SAMPLING)] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel=SAMPLING)] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 is off.", rich_help_panel=SAMPLING)] = 0,
    top_p: Annotated[float, typer.Option(help="Keep this much probability.", rich_help_panel=SAMPLING)] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Drop tokens below this share of the best.", rich_help_panel=SAMPLING)
    ] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="1 is none.", rich_help_panel=SAMPLING)] = 1.0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this string (may be repeated).", rich_help_panel=SAMPLING)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.", rich_help_panel=SAMPLING)] = None,
    rule: Annotated[
        str, typer.Option(help="Verification rule; see `draftgraph rules`.", rich_help_panel=DRAFTING)
    ] = "auto",
    structure: Annotated[
        str, typer.Option(help="graph, tree, comb, paths, chain, gsd or auto.", rich_help_panel=DRAFTING)
    ] = "auto",
    budget: Annotated[
        str, typer.Option(help="Nodes verified per round; 0 is plain.", rich_help_panel=DRAFTING)
    ] = "auto",
    num_speculative_tokens: Annotated[
        int | None, typer.Option(help="Depth of the draft.", rich_help_panel=DRAFTING)
    ] = None,
    drafter: Annotated[
        str | None, typer.Option(help="model, or lookup (needs no model).", rich_help_panel=DRAFTING)
    ] = None,
    edges: Annotated[
        str,
        typer.Option(
            help="Sources of copies, with commas: merge, own, context, rejected, table; or auto.",
            rich_help_panel=DRAFTING,
        ),
    ] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", rich_help_panel=DRAFTING)] = None,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Add log-probabilities to --json.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Draw every round and a summary.", rich_help_panel=OUTPUT)
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Also write what happened, for `draftgraph view`.", rich_help_panel=OUTPUT)
    ] = None,
) -> None:
    """Generate text; without --model with the small pair that ships with draftgraph."""
    with reporting():
        _check_output(as_json, show, logprobs)
        if trace is not None:
            tracefile.refuse_unwritable(trace)
        text = _read_prompt(prompt)
        params = dg.SamplingParams(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            stop=tuple(stop or ()),
            seed=seed,
            logprobs=logprobs,
        )
        config = dg.Config(
            budget=int(budget) if budget.lstrip("-").isdecimal() else budget,
            rule=rule,
            structure=structure,
            num_speculative_tokens=num_speculative_tokens,
            drafter=drafter,
            edges=edges if edges == "auto" else tuple(name.strip() for name in edges.split(",") if name.strip()),
        )
        if threads is not None:
            torch.set_num_threads(threads)
        engine = _load(model, draft_model, config, quiet=as_json)
        with status("timing this pair on this machine, once", as_json):
            stream = engine.stream(text, params)
        _run(engine, stream, text, make_printer(engine.tokenizer, text, as_json, show), trace)


def _check_output(as_json: bool, show: bool, logprobs: bool) -> None:
    if as_json and show:
        raise OptionError("--show draws for a person and --json prints one object; write one of them")
    if logprobs and not as_json:
        raise OptionError("--logprobs are part of the JSON object; write --json with it")


def _read_prompt(prompt: str) -> str:
    if prompt == "-":
        try:
            prompt = typer.get_text_stream("stdin").read()
        except UnicodeDecodeError as error:
            raise PromptError(
                f"standard input is not {error.encoding} text ({error.reason}); send the prompt as UTF-8"
            ) from None
    if not prompt:
        raise PromptError("the prompt is empty; write the text to continue, or - to read it from standard input")
    if not prompt.isascii() and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise PromptError("the prompt is not valid UTF-8; write it in UTF-8")
    return prompt


def _load(model: str | None, draft_model: str | None, config: dg.Config, quiet: bool) -> dg.Engine:
    """The engine for the models that were asked for, or for the bundled pair."""
    if model is None and draft_model is not None:
        raise OptionError("--draft-model needs the target that it drafts for; write --model as well")
    target: str | Path
    if model is not None:
        target, pair_drafter = model, draft_model
    else:
        target, bundled = bundled_pair()
        pair_drafter = str(bundled) if config.drafter in (None, "model") else None
    with status(f"loading {'the bundled pair' if model is None else model}", quiet), silent_loading():
        return dg.Engine.from_pretrained(target, draft_model=pair_drafter, config=config)


def _run(engine: dg.Engine, stream: Stream, prompt: str, printer: Printer, trace: Path | None = None) -> None:
    """A stream, printed, then traced. What was generated before an error or Ctrl-C is printed and traced all the same."""
    printer.begin()
    failure: BaseException | None = None
    try:
        for event in stream:
            printer.event(event)
    except (DraftgraphError, KeyboardInterrupt) as error:
        failure = error
    printer.end(stream.result())
    if trace is not None:
        try:
            tracefile.save(tracefile.make_trace(stream.result(), prompt, engine.tokenizer), trace)
        except DraftgraphError as error:
            failure = failure or error  # what ended the request is told first
    if failure is not None:
        raise failure
