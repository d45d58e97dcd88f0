"""The consoles that are printed on: text is text, never markup, and what could drive the terminal is written as an escape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.text import Text

from draftgraph.view.printable import on_one_line, printable
from draftgraph.view.sheet import Sheet


class SafeConsole(Console):
    """A rich console whose own colours are the only escape sequences that reach the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def make_console(**options: Any) -> Console:
    """A console for texts of unknown origin; `options` are those of rich."""
    return SafeConsole(markup=False, emoji=False, highlight=False, **options)


def print_report(parts: Iterable[Sheet | Text | Group], apart: bool = False) -> None:
    """Tables and paragraphs on stdout, every paragraph on one line of its own. apart  with empty lines between them."""
    console = make_console()
    for part in parts:
        if isinstance(part, Text):
            part = Text(on_one_line(part.plain), part.style)
        console.print(part)
        if apart:
            console.print()
