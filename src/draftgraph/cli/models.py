"""draftgraph models: which model types of transformers run, with which drafts, and why others do not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from draftgraph.cli import options
from draftgraph.cli.program import FAILED, app


@app.command()
def models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Parts of model types or class names, e.g. gemma; all without.")
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="Only these: equal, refused, wrong, crash or unusable.")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option("--backend", help="Only torch, or only openvino (may be repeated).")
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Try the models here and now, instead of reading the stored table.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Also write the table to this file: a page if it ends in .md, else JSON. With --run and names, rows of "
            "a JSON file that is there are made anew, and the others stay.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print which model types run exactly, with which drafts, and why others do not.

    With --run small models of every type are built and tried, each in a process of its own; that takes about half an hour.
    Exit code 1 if one of them gives another text than transformers does, or crashes.
    """
    from draftgraph.cli.work.models import Order, tell_models

    raise typer.Exit(0 if tell_models(Order(names or [], status, backend or [], run, out, as_json)) else FAILED)
