"""Reports that are read on a terminal and in a file: paragraphs and tables, as rich renderables and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table
from rich.text import Text

from draftgraph.view.printable import on_one_line, printable

Cell = str | Text
"""Text, not markup: brackets stay brackets."""

_PADDING = 3
"""Columns that rich puts around a cell, its border included."""


@dataclass(frozen=True)
class Sheet:
    """A table with a title.

    columns  their names.
    rows     one cell per column.
    numbers  how many of the last columns are aligned to the right.
    keys     columns that say what a row is. If not 0, a table that is too wide is broken between the other columns, and every
             part repeats these; otherwise long cells are folded.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: int = 0
    keys: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(on_one_line(self.title), "bold")
        for columns in self._parts(options.max_width):
            yield self._table(columns)

    def _table(self, columns: Iterable[int]) -> Table:
        chosen = list(columns)
        table = Table()
        for i in chosen:
            right = i >= len(self.columns) - self.numbers
            justify: JustifyMethod = "right" if right else "left"
            table.add_column(_text(self.columns[i]), justify=justify, no_wrap=right, overflow="fold")
        for row in self.rows:
            table.add_row(*(_text(row[i]) for i in chosen))
        return table

    def _parts(self, width: int) -> list[list[int]]:
        """Indices of the columns of every part that fits `width`; one part if there are no keys."""
        every = list(range(len(self.columns)))
        if not self.keys:
            return [every]
        widths = [
            _PADDING + max(cell_len(_text(cell).plain) for cell in (self.columns[i], *(row[i] for row in self.rows)))
            for i in every
        ]
        keys = every[: self.keys]
        parts: list[list[int]] = [[]]
        for i in every[self.keys :]:
            if parts[-1] and sum(widths[j] for j in (*keys, *parts[-1], i)) + 1 > width:
                parts.append([])
            parts[-1].append(i)
        return [[*keys, *part] for part in parts]

    def markdown(self) -> str:
        right = len(self.columns) - self.numbers
        rule = ["---:" if i >= right else "---" for i in range(len(self.columns))]
        lines = [self.columns, rule, *self.rows]
        table = "\n".join("| " + " | ".join(_escaped(_text(cell).plain) for cell in line) + " |" for line in lines)
        return f"**{on_one_line(self.title)}**\n\n{table}" if self.title else table


def to_markdown(title: str, parts: Iterable[Sheet | Text]) -> str:
    """A Markdown document of sheets and paragraphs."""
    blocks = [part.markdown() if isinstance(part, Sheet) else printable(part.plain) for part in parts]
    return "\n\n".join([f"# {title}", *blocks]) + "\n"


def _text(cell: Cell) -> Text:
    """A cell on one line, as wide as it will be printed."""
    plain, style = (cell.plain, cell.style) if isinstance(cell, Text) else (cell, "")
    return Text(on_one_line(plain), style)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
