"""The command line: arguments in, text out. Exit code 2 for misuse, 1 for failure, 130 for Ctrl-C; errors on stderr."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

import draftgraph as dg
from draftgraph.data import bundled_pair
from draftgraph.errors import DraftgraphError, OptionError, PairError, PromptError
from draftgraph.proof.exact import prove
from draftgraph.verify import get_rule, rules
from draftgraph.verify.base import Rule
from draftgraph.view import terminal
from draftgraph.view.printing import Printer, make_printer
from draftgraph.view.status import silent_loading, status

MISUSE = (OptionError, PromptError, PairError)
SAMPLING, DRAFTING, OUTPUT = "How to sample", "How to draft and verify", "What to print"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Language models generate faster, without changing what they generate.",
)


def main() -> None:
    """Entry point of the `draftgraph` command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not stop the text
    app()


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"draftgraph {dg.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


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
    structure: Annotated[str, typer.Option(help="graph, tree, chain, gsd or auto.", rich_help_panel=DRAFTING)] = "auto",
    budget: Annotated[
        str, typer.Option(help="Nodes verified per round; 0 is plain.", rich_help_panel=DRAFTING)
    ] = "auto",
    num_speculative_tokens: Annotated[
        int | None, typer.Option(help="Depth of the draft.", rich_help_panel=DRAFTING)
    ] = None,
    drafter: Annotated[
        str | None, typer.Option(help="model, or lookup (needs no model).", rich_help_panel=DRAFTING)
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", rich_help_panel=DRAFTING)] = None,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Add log-probabilities to --json.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Draw every round and a summary.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Generate text; without --model with the small pair that ships with draftgraph."""
    with _reporting():
        _check_output(as_json, show, logprobs)
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
        )
        if threads is not None:
            torch.set_num_threads(threads)
        engine = _load(model, draft_model, config, quiet=as_json)
        _run(engine, text, params, make_printer(engine.tokenizer, text, as_json, show))


@app.command("prove")
def prove_command(
    rule: Annotated[str, typer.Option(help="A rule, `module:Rule` of your own, or all.")] = "all",
    vocab: Annotated[int, typer.Option(help="Tokens in the vocabulary.")] = 3,
    depth: Annotated[int, typer.Option(help="Drafted tokens per path.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove rules lossless: the exact law of what they emit, for every draft of small models. Exit code 1 if not."""
    with _reporting():
        chosen = list(rules().values()) if rule == "all" else [_find_rule(rule)]
        console = Console()
        proofs = []
        for one in chosen:
            with status(f"proving {one.name}", as_json) as tell:
                done = 0

                def count(row: object, name: str = one.name) -> None:
                    nonlocal done
                    done += 1
                    tell(f"proving {name}: {done} cases and controls")

                proofs.append(prove(one, vocab=vocab, depth=depth, progress=count))
            if not as_json:
                console.print(terminal.proof_report(proofs[-1]), "")
        if as_json:
            several = {"holds": all(proof.holds for proof in proofs), "proofs": [proof.to_dict() for proof in proofs]}
            typer.echo(json.dumps(several if rule == "all" else proofs[0].to_dict()))
        if not all(proof.holds for proof in proofs):
            raise typer.Exit(1)


@app.command("rules")
def rules_command() -> None:
    """List the verification rules."""
    Console().print(terminal.rules_table(rules()))


@contextmanager
def _reporting() -> Iterator[None]:
    """Errors that are meant for the user become one line on stderr and an exit code."""
    try:
        yield
    except DraftgraphError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, MISUSE) else 1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None


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


def _run(engine: dg.Engine, prompt: str, params: dg.SamplingParams, printer: Printer) -> None:
    """`engine.stream`, printed. What was generated before an error or Ctrl-C is printed all the same."""
    stream = engine.stream(prompt, params)
    printer.begin()
    failure: BaseException | None = None
    try:
        for event in stream:
            printer.event(event)
    except (DraftgraphError, KeyboardInterrupt) as error:
        failure = error
    printer.end(stream.result())
    if failure is not None:
        raise failure


def _find_rule(name: str) -> Rule:
    """A rule by name, or a Rule subclass or instance of the user's as `module:name`."""
    module, colon, attribute = name.partition(":")
    if not colon:
        return get_rule(name)
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not look in the current folder by itself
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OptionError(
            f"cannot import rule {name!r}: {error}; write module:Name of a draftgraph.Rule subclass"
        ) from error
    found = found() if inspect.isclass(found) and issubclass(found, Rule) and not inspect.isabstract(found) else found
    if not isinstance(found, Rule):
        raise OptionError(f"{name!r} is not a rule but {found!r}; write module:Name of a draftgraph.Rule subclass")
    return found


if __name__ == "__main__":
    main()
