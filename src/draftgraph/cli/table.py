"""draftgraph table: tables of n-grams for drafter="search", counted from texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from draftgraph.cli import options
from draftgraph.cli.program import Commands, app

table = typer.Typer(cls=Commands, help="Tables of n-grams for drafter='search': build one from texts, or look at one.")
app.add_typer(table, name="table")


@table.command("build")
def build(
    corpus: Annotated[
        list[Path],
        typer.Argument(
            help="Texts in UTF-8; of a .jsonl file every text in its objects; of a folder every text file below it."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write.", rich_help_panel=options.OUTPUT)],
    model: options.Model = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.Json = False,
) -> None:
    """Count what follows one token and two in some texts, as a model's tokenizer reads them; --model names it."""
    from draftgraph.cli.work.table import run_build

    run_build(corpus, out, options.sources(None, None, model)[0], trust_remote_code, as_json)


@table.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="A file of `draftgraph table build`.")],
    as_json: options.Json = False,
) -> None:
    """Check a table, and say what it holds."""
    from draftgraph.cli.work.table import run_show

    run_show(file, as_json)
