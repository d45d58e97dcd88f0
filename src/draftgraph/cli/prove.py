"""draftgraph prove and draftgraph rules: what is lossless, for which drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from draftgraph.cli import options
from draftgraph.cli.program import FAILED, app
from draftgraph.errors import OptionError

ALL = "all"
PANEL = "By Monte Carlo, on a real pair"
AUDITED = {
    "target", "drafter", "prompts", "structure", "budget", "prediction", "temperature", "top_p", "samples", "tokens", "seed",
    "dtype", "device", "threads", "backend", "weights", "trust_remote_code",
}  # fmt: skip
EXACT = {"vocab", "depth", "verbose"}
"""Options of the one and of the other way to prove."""


@app.command("prove")
def prove_command(
    context: typer.Context,
    rule: options.RuleName = ALL,
    vocab: Annotated[int, typer.Option(help="Tokens in the vocabulary.")] = 3,
    depth: Annotated[int, typer.Option(help="Drafted tokens per path.")] = 3,
    verbose: Annotated[bool, typer.Option("--verbose", help="With all rules: every rule's own table too.")] = False,
    as_json: options.Json = False,
    markdown: Annotated[
        Path | None,
        typer.Option(help="Also write the report to this file, as Markdown.", rich_help_panel=options.OUTPUT),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--model",
            "--target",
            help="A folder, .gguf file or hub name; the bundled pair without.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    drafter: Annotated[
        str | None,
        typer.Option("--draft-model", "--drafter", help="Drafter; texts are looked up without.", rich_help_panel=PANEL),
    ] = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    threads: options.Threads = None,
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    trust_remote_code: options.TrustRemoteCode = False,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="May be repeated.", rich_help_panel=PANEL)
    ] = None,
    structure: options.Structure = "auto",
    budget: options.Budget = "auto",
    prediction: options.Prediction = None,
    temperature: Annotated[float, typer.Option(help="Above 0.", rich_help_panel=PANEL)] = 1.0,
    top_p: options.TopP = 1.0,
    samples: Annotated[int, typer.Option(help="Texts per prompt.", rich_help_panel=PANEL)] = 2000,
    tokens: Annotated[int, typer.Option(help="New tokens per text.", rich_help_panel=PANEL)] = 4,
    seed: Annotated[int | None, typer.Option(help="Repeats an audit.", rich_help_panel=PANEL)] = None,
) -> None:
    """Prove rules lossless: the exact law of what they emit, for every draft of small models.

    With --model, test a real pair by Monte Carlo instead: is what it emits distributed as the target's own sampling?

    Exit code 0 if every rule is what it says it is, 1 if one is not (or if the test could not have told).
    """
    _check_folder(markdown)
    audited = _is_audit(context)
    from draftgraph.cli.work import prove as work

    if audited:
        pair = options.sources(target, drafter)
        chosen = options.Chosen(pair, dtype, device, threads, trust_remote_code, backend, weights)
        drafting = options.Drafting("auto" if rule == ALL else rule, structure, budget, prediction)
        sampling = work.sampling(tokens, temperature, top_p, seed)
        held = work.run_audit(chosen, drafting, sampling, prompts or (), samples, as_json, markdown)
    else:
        held = work.run_proof(None if rule == ALL else rule, vocab, depth, verbose, as_json, markdown)
    raise typer.Exit(0 if held else FAILED)


@app.command("rules")
def rules_command() -> None:
    """List the verification rules."""
    from draftgraph.cli.work.prove import list_rules

    list_rules()


def _is_audit(context: typer.Context) -> bool:
    """Whether an option of the audit was written.

    Raises OptionError if one of the exact prover's was written as well.
    """
    sources = {name: context.get_parameter_source(name) for name in (*AUDITED, *EXACT)}
    written = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if written & AUDITED and written & EXACT:
        raise OptionError(
            f"--{min(written & EXACT)} is for the exact prover of small models, which reads no pair; leave it out, or leave out "
            "--model and what belongs to it"
        )
    return bool(written & AUDITED)


def _check_folder(file: Path | None) -> None:
    """Refuse a file that could not be written before minutes are spent on what should be in it."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise OptionError(f"cannot write {str(file)!r}; --markdown takes a file in a folder that exists")
