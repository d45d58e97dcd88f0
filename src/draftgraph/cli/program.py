"""The command `draftgraph` and what its commands share: exit code 2 for misuse, 1 for failure, 130 for Ctrl-C.

Whatever goes wrong is told in one line on stderr. DRAFTGRAPH_TRACEBACK=1 shows where an unexpected error came from.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import draftgraph as dg
from draftgraph.errors import DraftgraphError, OptionError, PairError, PromptError, first_line, unknown_name
from draftgraph.view.printable import on_one_line
from draftgraph.view.status import quiet_libraries

MISUSE = (OptionError, PromptError, PairError)
TRACEBACK = "DRAFTGRAPH_TRACEBACK"
FAILED, MISUSED, INTERRUPTED = 1, 2, 130


class Commands(TyperGroup):
    """All commands as one group. Errors of usage are told as all others are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown_name("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with quiet_libraries(), _warnings_told():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                tell("interrupted")
                raise typer.Exit(INTERRUPTED) from None

    def main(self, *arguments: Any, **extra: Any) -> Any:
        """Run, and exit with a code. An error that nobody foresaw is one line as well."""
        try:
            code = super().main(*arguments, **extra | {"standalone_mode": False})
        except Exception as error:
            if TRACEBACK in os.environ:
                raise
            tell(f"error: {_said(error)}")
            usage = hasattr(error, "format_message")
            code = MISUSED if usage or isinstance(error, MISUSE) else FAILED
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Language models generate faster, without changing what they generate.",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"draftgraph {dg.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(MISUSED)


def tell(message: str) -> None:
    """One line on stderr."""
    typer.echo(on_one_line(message), err=True)


def _said(error: Exception) -> str:
    """An error in words, with what to do about it."""
    if isinstance(error, DraftgraphError):
        return str(error)
    if hasattr(error, "format_message"):  # typer's and click's errors of usage
        context = getattr(error, "ctx", None)
        where = "draftgraph" if context is None else context.command_path
        return f"{_usage(error)}; see {where} --help"
    return f"unexpected {first_line(error)}; set {TRACEBACK}=1 to see where it came from"


def _usage(error: Any) -> str:
    """An error of usage, with the nearest option for one that does not exist."""
    name, near = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if name is None or not near:
        return str(error.format_message()).strip().rstrip(".")
    return f"no such option {name}. Did you mean {difflib.get_close_matches(name, near, n=1, cutoff=0.0)[0]}?"


class _Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(f"warning: {record.getMessage()}")


@contextmanager
def _warnings_told() -> Iterator[None]:
    """What draftgraph itself logs as a warning is a line on stderr."""
    logger, teller = logging.getLogger("draftgraph"), _Teller(logging.WARNING)
    logger.addHandler(teller)
    try:
        yield
    finally:
        logger.removeHandler(teller)
