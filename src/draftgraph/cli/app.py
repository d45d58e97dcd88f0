"""The command `draftgraph` and what its subcommands share: exit code 2 for misuse, 1 for failure, 130 for Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

import draftgraph as dg
from draftgraph.errors import DraftgraphError, OptionError, PairError, PromptError

MISUSE = (OptionError, PromptError, PairError)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Language models generate faster, without changing what they generate.",
)


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


@contextmanager
def reporting() -> Iterator[None]:
    """Errors that are meant for the user become one line on stderr and an exit code."""
    try:
        yield
    except DraftgraphError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, MISUSE) else 1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
