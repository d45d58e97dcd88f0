"""The first minute: both texts, both speeds, one picture."""

from __future__ import annotations

from typer.testing import CliRunner

from draftgraph.cli import app
from draftgraph.cli.work import demo


def test_the_demo_shows_the_same_text_twice_with_both_speeds_and_a_picture(monkeypatch):
    monkeypatch.setattr(demo, "TURNS", 1)
    monkeypatch.setattr(demo, "TOKENS", 12)
    shown = CliRunner().invoke(app, ["demo"], env={"COLUMNS": "100"})
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("tokens/s, 1.0 per target call") == 2
    assert shown.output.count("The same 12 tokens") == 2
    assert "bonus" in shown.output
