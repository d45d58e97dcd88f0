"""draftgraph generate: a prompt in, text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import draftgraph as dg
from draftgraph.cli import options
from draftgraph.cli.program import app
from draftgraph.errors import DraftgraphError, OptionError, PromptError
from draftgraph.view import tracefile
from draftgraph.view.printing import Printer, make_printer
from draftgraph.view.status import status

if TYPE_CHECKING:
    from draftgraph.request.result import Stream

SAMPLING, DRAFTING, OUTPUT = options.SAMPLING, options.DRAFTING, options.OUTPUT


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input, as it is.")],
    model: options.Model = None,
    draft_model: options.DraftModel = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    threads: options.Threads = None,
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    draft_weights: options.DraftWeights = None,
    trust_remote_code: options.TrustRemoteCode = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a message; the tokenizer's chat template lays it out.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="With --chat: the system message before it.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens at most.", rich_help_panel=SAMPLING)] = 128,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="1 is none; the model's own without.", rich_help_panel=SAMPLING)
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help=r"End before this string (may be repeated); \n is a newline, \\ a backslash.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    json_schema: options.JsonSchema = None,
    regex: options.Regex = None,
    grammar: options.Grammar = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.", rich_help_panel=SAMPLING)] = None,
    rule: options.RuleName = "auto",
    structure: options.Structure = "auto",
    budget: options.Budget = "auto",
    num_speculative_tokens: Annotated[
        int | None, typer.Option(help="Depth of the draft.", rich_help_panel=DRAFTING)
    ] = None,
    drafter: options.DrafterKind = None,
    table: options.Table = None,
    prediction: options.Prediction = None,
    bitwise: options.Bitwise = "auto",
    judge: options.Judge = None,
    threshold: options.Threshold = None,
    schedule: options.Schedule = "sequential",
    edges: Annotated[
        str,
        typer.Option(
            help="Sources of copies, with commas: merge, own, context, rejected, text, table; or auto.",
            rich_help_panel=DRAFTING,
        ),
    ] = "auto",
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Add log-probabilities to --json.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: options.Json = False,
    show: Annotated[
        bool, typer.Option("--show", help="Draw every round and a summary.", rich_help_panel=OUTPUT)
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Also write what happened, for `draftgraph view`.", rich_help_panel=OUTPUT)
    ] = None,
) -> None:
    """Generate text; without --model with the small pair that ships with draftgraph."""
    _check_output(as_json, show, logprobs)
    if system is not None and not chat:
        raise OptionError("--system is the message before a chat; write --chat with it")
    if trace is not None:
        tracefile.refuse_unwritable(trace)
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
    text, must_be = read_prompt(prompt), options.as_grammar(json_schema, regex, grammar)
    params = dg.SamplingParams(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=tuple(map(options.unescaped, stop or ())),
        seed=seed,
        logprobs=logprobs,
        grammar=must_be,
    )
    from draftgraph.cli.work.engines import encoded, load_engine, make_config, place

    place(chosen)
    config = make_config(
        options.Drafting(rule, structure, budget, prediction, bitwise, judge, threshold, schedule),
        num_speculative_tokens=num_speculative_tokens,
        drafter=drafter,
        table=table,
        edges=edges if edges == "auto" else tuple(name.strip() for name in edges.split(",") if name.strip()),
    )
    engine = load_engine(chosen, config, quiet=as_json)
    ids = encoded(engine, text, chat, system)
    tokenizer: Any = engine.tokenizer
    shown = tokenizer.decode(ids) if chat else text
    with status("timing this pair on this machine, once", as_json):
        stream = engine.stream(ids if chat else text, params)
    printer = make_printer(tokenizer, shown, ids, as_json, show)
    _run(stream, printer, None if trace is None else lambda: _save(stream, shown, tokenizer, ids, trace))


def _check_output(as_json: bool, show: bool, logprobs: bool) -> None:
    if as_json and show:
        raise OptionError("--show draws for a person and --json prints one object; write one of them")
    if logprobs and not as_json:
        raise OptionError("--logprobs are part of the JSON object; write --json with it")


def read_prompt(prompt: str) -> str:
    """A prompt as it was written, or from standard input. Raises PromptError."""
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


def _run(stream: Stream, printer: Printer, save: Callable[[], None] | None) -> None:
    """A stream, printed, then traced. What was generated before an error or Ctrl-C is printed and traced all the same."""
    printer.begin()
    failure: BaseException | None = None
    try:
        for event in stream:
            printer.event(event)
    except (DraftgraphError, KeyboardInterrupt) as error:
        failure = error
    printer.end(stream.result())
    if save is not None:
        try:
            save()
        except DraftgraphError as error:
            failure = failure or error  # what ended the request is told first
    if failure is not None:
        raise failure


def _save(stream: Stream, prompt: str, tokenizer: Any, before: Sequence[int], file: Path) -> None:
    tracefile.save(tracefile.make_trace(stream.result(), prompt, tokenizer, before), file)
