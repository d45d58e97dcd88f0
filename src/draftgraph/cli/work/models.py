"""draftgraph models at work: the stored table, or one that is made anew."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from draftgraph.errors import OptionError
from draftgraph.files import write_whole
from draftgraph.lab.coverage.report import models_markdown, models_report
from draftgraph.lab.coverage.run import new_table, run, versions
from draftgraph.lab.coverage.table import BACKENDS, CRASHED, OPENVINO, TORCH, WRONG, Row, Table, read_table
from draftgraph.view.console import print_report
from draftgraph.view.status import status as spinner


@dataclass(frozen=True)
class Order:
    """What was asked for; see the options of the command."""

    names: list[str]
    status: str | None
    backends: list[str]
    run: bool
    out: Path | None
    as_json: bool


def tell_models(order: Order) -> bool:
    """Print the table that was asked for, and write it; whether nothing in it is wrong or crashed. Raises OptionError."""
    for name in order.backends:
        if name not in BACKENDS:
            raise OptionError(f"backend={name!r} is not possible; write {' or '.join(BACKENDS)}")
    stored = read_table()
    stored.only((), order.status)  # a status that there is not is told before half an hour has gone
    table = _made(order) if order.run else _on(stored, order.backends).only(order.names, order.status)
    shown = table.only((), order.status)
    if order.as_json:
        typer.echo(shown.to_json(), nl=False)
    else:
        print_report(models_report(shown))
    if order.out is not None and not order.run:
        _write(order.out, table)
    return not any(row.has(WRONG) or row.has(CRASHED) for row in table.rows)


def _on(table: Table, backends: list[str]) -> Table:
    """The table with the columns of some backends; all if none is named."""
    if not backends:
        return table
    rows = [
        replace(row, backends={name: row.backends[name] for name in backends if name in row.backends})
        for row in table.rows
    ]
    return replace(table, rows=[row for row in rows if row.backends])


def _made(order: Order) -> Table:
    """A table of what is found now. The file is written after every row, so that an interrupted run leaves what it has."""
    backends = order.backends or [TORCH, *([OPENVINO] if OPENVINO in versions() else [])]
    names = _names(order.names)
    kept = _kept(order)
    rows: list[Row] = []
    for row in _told(names, backends, order.as_json):
        rows.append(row)
        if order.out is not None:
            _write(order.out, kept.with_rows(rows))
    return new_table(rows)


def _names(parts: list[str]) -> list[str]:
    """Model types and variants whose names or classes hold one of the parts; all if there is none. Raises OptionError."""
    from draftgraph.lab.coverage.small import named_types

    every = new_table([Row(name, class_name) for name, class_name in named_types().items()])
    return [row.name for row in every.with_rows([]).only(parts).rows]


def _kept(order: Order) -> Table:
    """What stays of the file that is written: all of it where some types, or some backends, are tried. Raises OptionError."""
    empty = new_table([])
    partly = bool(order.names or order.backends)
    if order.out is not None and (order.out.is_dir() or not order.out.parent.is_dir()):
        raise OptionError(f"out={str(order.out)!r} is not possible; write a file in a folder that is there")
    if order.out is None or order.out.suffix == ".md" or not partly or not order.out.exists():
        return empty
    held = read_table(order.out)
    if held.versions != empty.versions:
        raise OptionError(
            f"{str(order.out)!r} was made with {_told_versions(held)}; try all models, or write another file"
        )
    return replace(held, date=empty.date)


def _told_versions(table: Table) -> str:
    return ", ".join(f"{name} {version}" for name, version in table.versions.items())


def _told(names: list[str], backends: list[str], quiet: bool) -> Iterator[Row]:
    """Rows as they are found; where nobody looks at a spinner, each is a line on stderr."""
    with spinner(f"{names[0]}, 1 of {len(names)}", quiet) as say:
        for number, row in enumerate(run(names, backends), 1):
            found = ", ".join(f"{backend}: {each.status}" for backend, each in row.backends.items())
            if not quiet and not sys.stderr.isatty():
                typer.echo(f"{number} of {len(names)}  {row.name}  {found}", err=True)
            say(
                f"{number} of {len(names)}, {row.name}: {found}; next {names[number] if number < len(names) else 'the table'}"
            )
            yield row


def _write(file: Path, table: Table) -> None:
    """Raises OptionError if the file cannot be written."""
    try:
        write_whole(file, models_markdown(table) if file.suffix == ".md" else table.to_json())
    except OSError as error:
        raise OptionError(
            f"cannot write {str(file)!r} ({error.strerror or error}); write --out with another name"
        ) from error
