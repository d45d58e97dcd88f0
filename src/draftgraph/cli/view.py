"""draftgraph view: a trace as pictures, in the terminal or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from draftgraph.cli.program import app
from draftgraph.errors import OptionError
from draftgraph.view import page, terminal, tracefile
from draftgraph.view.console import make_console
from draftgraph.view.printable import on_one_line, printable
from draftgraph.view.tracefile import Trace


@app.command("view")
def view_command(
    trace: Annotated[Path, typer.Argument(help="What draftgraph generate ... --trace FILE wrote.")],
    html: Annotated[Path | None, typer.Option(help="Write one page that works offline into this file.")] = None,
    round_number: Annotated[
        int | None, typer.Option("--round", help="Draw this round only; a page opens at it.")
    ] = None,
    why: Annotated[bool, typer.Option("--why", help="List every node of --round: what became of it, and why.")] = False,
) -> None:
    """Draw a trace: every round's draft graph, where each node was drafted, what was accepted, where the time went."""
    if why and (round_number is None or html is not None):
        raise OptionError("--why lists the nodes of one round in the terminal; write --round N with it, and no --html")
    if html is not None:
        tracefile.refuse_unwritable(html)
    found = tracefile.load(trace)
    if round_number is not None and not found.rounds:
        raise OptionError(f"--round {round_number}: the trace has no rounds; leave it out")
    if round_number is not None and not 1 <= round_number <= len(found.rounds):
        raise OptionError(f"--round {round_number} is not in the trace; write a number from 1 to {len(found.rounds)}")
    if html is not None:
        tracefile.write_report(html, page.html(found, round_number or 1))
        typer.echo(on_one_line(f"{html}: {len(found.rounds)} rounds; open it in a browser"))
    else:
        _draw(found, round_number, why)


def _draw(trace: Trace, only: int | None, why: bool) -> None:
    """The legend, then one round, or all of them with the text and the summary."""
    console = make_console()
    console.print(terminal.legend(), "", sep="\n")
    for number, record in enumerate(trace.rounds, 1):
        if only in (None, number):
            console.print(terminal.round_tree(record, number, trace.words.__getitem__))
        if only == number and why:
            console.print("", terminal.nodes_table(record, trace.words.__getitem__), sep="\n")
    if only is None:
        text = Text(printable(trace.prompt), "dim").append(terminal.transcript(trace.rounds, trace.pieces))
        summary = terminal.summary(trace.stats, trace.choice["reason"], trace.rounds, trace.finish_reason, trace.seed)
        console.print("", text, "", summary, sep="\n")
