"""draftgraph prove and draftgraph rules: what is lossless, for which drafts."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from typing import Annotated

import typer
from rich.console import Console

from draftgraph.cli.app import app, reporting
from draftgraph.errors import OptionError
from draftgraph.proof.exact import prove
from draftgraph.verify import get_rule, rules
from draftgraph.verify.base import Rule
from draftgraph.view import terminal
from draftgraph.view.status import status


@app.command("prove")
def prove_command(
    rule: Annotated[str, typer.Option(help="A rule, `module:Rule` of your own, or all.")] = "all",
    vocab: Annotated[int, typer.Option(help="Tokens in the vocabulary.")] = 3,
    depth: Annotated[int, typer.Option(help="Drafted tokens per path.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove rules lossless: the exact law of what they emit, for every draft of small models. Exit code 1 if not."""
    with reporting():
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
