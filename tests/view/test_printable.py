"""What reaches a terminal: text, whatever the text is."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from draftgraph.view import console as consoles
from draftgraph.view.console import SafeConsole, make_console, print_report
from draftgraph.view.printable import on_one_line, printable
from draftgraph.view.sheet import Sheet, to_markdown

DRIVING = (
    "\x1b[31mred",
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\", "\x9b2J", "safe\rfake", "a\b\bbc", "\x07", "\u202egnp.exe",
    "\u2066x\u2069", "\u2028line", "\u200fx", "\ud800", "\U000e0041", "\ufeff", "\x7f",
)  # fmt: skip
OWN = re.compile(r"\x1b\[[0-9;]*m")
"""What rich writes itself: colours."""


@pytest.mark.parametrize("text", DRIVING, ids=ascii)
def test_what_drives_a_terminal_becomes_visible(text):
    for made in (printable(text), on_one_line(text)):
        assert made.isascii()
        assert made.isprintable()


def test_text_stays_text():
    for text in (
        "a\tb\nc",
        "naïve – “quoted” 漢字",
        "\U0001f469\u200d\U0001f4bb",
        "می\u200cخواهم",
        "🇩🇪",
        "é",
        "[bold]x[/bold] :smile:",
    ):
        assert printable(text) == text
    assert on_one_line("a\tb\nc \u200d") == "a\\tb\\nc \\u200d"


@given(st.text())
def test_whatever_is_printed_is_harmless(text):
    for part in (text, Text(text), tree(text), table(text), Sheet(text, (text, "b"), [(text, Text(text))], keys=1)):
        made = OWN.sub("", printed(part))
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", made)


def tree(text: str) -> Tree:
    whole = Tree(Text(text))
    whole.add(text)
    return whole


def table(text: str) -> Table:
    whole = Table(title=text)
    whole.add_column(text)
    whole.add_row(text)
    return whole


def printed(part: object) -> str:
    out = StringIO()
    SafeConsole(file=out, force_terminal=True, color_system="truecolor", width=60, markup=False, emoji=False).print(
        part
    )
    return out.getvalue()


def test_markup_in_texts_is_no_markup():
    out = StringIO()
    make_console(file=out, force_terminal=True, width=80).print("[link=http://evil.example]x[/link] :boom: [/]")
    assert out.getvalue() == "[link=http://evil.example]x[/link] :boom: [/]\n"


def test_names_cannot_begin_lines_of_their_own(monkeypatch):
    out = StringIO()
    monkeypatch.setattr(consoles, "make_console", lambda: SafeConsole(file=out, width=200))
    hostile = "model\nall rules hold\x1b[2J"
    print_report([Text(f"target: {hostile}"), Sheet(hostile, ("of", "found"), [(hostile, Text(hostile, "red"))])])
    assert "\nall rules" not in out.getvalue()
    assert out.getvalue().count("model\\nall rules hold\\x1b[2J") == 3 + 1
    markdown = to_markdown("report", [Sheet(hostile, ("of",), [(f"| {hostile}",)]), Text("a\x1bb")])
    assert "\x1b" not in markdown
    assert "| \\| model\\nall rules hold\\x1b[2J |" in markdown


def test_rich_s_own_console_would_have_let_it_through():
    """The control: without the safe console these tests would fail."""
    out = StringIO()
    Console(file=out, force_terminal=True, width=60).print(Text(DRIVING[1]))
    assert "\x1b]8" in out.getvalue()
