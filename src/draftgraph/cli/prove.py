"""draftgraph prove and draftgraph rules: what is lossless, for which drafts."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import draftgraph as dg
from draftgraph.cli import audit
from draftgraph.cli.app import app, reporting
from draftgraph.errors import OptionError
from draftgraph.lab.audit.report import audit_report
from draftgraph.lab.prove import bounds
from draftgraph.lab.prove.exact import CaseRow, ControlRow, Proof, Setting, prove_all
from draftgraph.lab.prove.report import Part, proof_report, proofs_report, rules_table
from draftgraph.verification.base import Rule
from draftgraph.verification.registry import get_rule, rules
from draftgraph.view.sheet import to_markdown
from draftgraph.view.status import status

ALL = "all"


@app.command("prove")
def prove_command(
    context: typer.Context,
    rule: Annotated[str, typer.Option(help="A rule, `module:Rule` of your own, or all.")] = ALL,
    vocab: Annotated[int, typer.Option(help="Tokens in the vocabulary.")] = 3,
    depth: Annotated[int, typer.Option(help="Drafted tokens per path.")] = 3,
    verbose: Annotated[bool, typer.Option("--verbose", help="With all rules: every rule's own table too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with everything in it.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Also write the report to this file, as Markdown.")] = None,
    target: audit.Target = None,
    drafter: audit.Drafter = None,
    prompts: audit.Prompts = None,
    structure: audit.Structure = "auto",
    budget: audit.Budget = "auto",
    temperature: audit.Temperature = 1.0,
    top_p: audit.TopP = 1.0,
    samples: audit.Samples = 2000,
    tokens: audit.Tokens = 4,
    seed: audit.Seed = None,
) -> None:
    """Prove rules lossless: the exact law of what they emit, for every draft of small models.

    With --target, test a real pair by Monte Carlo instead: is what it emits distributed as the target's own sampling?

    Exit code 0 if every rule is what it says it is, 1 if one is not (or if the test could not have told).
    """
    with reporting():
        _check_folder(markdown)
        if audit.is_asked(context):
            config = dg.Config(
                rule="auto" if rule == ALL else _find_rule(rule),
                structure=structure,
                budget=int(budget) if budget.lstrip("-").isdecimal() else budget,
            )
            params = dg.SamplingParams(max_new_tokens=tokens, temperature=temperature, top_p=top_p, seed=seed)
            found = audit.run_audit(target, drafter, config, params, prompts or (), samples, quiet=as_json)
            _show(audit_report(found), found.to_dict(), as_json, markdown)
            raise typer.Exit(0 if found.held else 1)
        proofs = _prove_exactly(rule, vocab, depth, quiet=as_json)
        report = proofs_report(proofs, verbose) if rule == ALL else proof_report(proofs[0])
        _show(report, _json(proofs) if rule == ALL else proofs[0].to_dict(), as_json, markdown)
        if not all(proof.holds for proof in proofs):
            raise typer.Exit(1)


@app.command("rules")
def rules_command() -> None:
    """List the verification rules."""
    Console().print(rules_table(rules()))


def _prove_exactly(rule: str, vocab: int, depth: int, quiet: bool) -> list[Proof]:
    """Proofs by enumeration, with bounds if their solver is installed."""
    chosen = list(rules().values()) if rule == ALL else [_find_rule(rule)]
    setting = Setting(vocab, depth, bounds=bounds.available())
    with status("proving", quiet) as tell:

        def say(row: CaseRow | ControlRow) -> None:
            at = f"{row.structure}, {row.laws}" if isinstance(row, CaseRow) else f"control: {row.name}"
            tell(f"proving {rule}: {at}")

        return prove_all(chosen, setting, say)


def _json(proofs: Sequence[Proof]) -> dict[str, Any]:
    return {"holds": all(proof.holds for proof in proofs), "proofs": [proof.to_dict() for proof in proofs]}


def _show(report: Sequence[Part], found: dict[str, Any], as_json: bool, markdown: Path | None) -> None:
    """The one place that prints: a report on the terminal or its figures as JSON, and the report in a file."""
    if markdown is not None:
        _write(markdown, to_markdown("draftgraph prove", report))
    if as_json:
        typer.echo(json.dumps(found))
    else:
        console = Console()
        for part in report:
            console.print(part)
            console.print()


def _check_folder(file: Path | None) -> None:
    """Refuse a file that could not be written before minutes are spent on what should be in it."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise OptionError(f"cannot write {str(file)!r}; --markdown takes a file in a folder that exists")


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write {str(file)!r}: {error.strerror}; give --markdown another file") from error


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
