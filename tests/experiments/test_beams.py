"""Beams, measured: every way is compared with its base in the same turn, and slower ways stay in the table."""

from __future__ import annotations

import pytest

from draftgraph.lab.turns import Answer, Timed, Turn
from experiments import beams


def test_ratios_are_those_of_the_same_turn() -> None:
    def timed(seconds: float, calls: int) -> Timed:
        return Timed(0, 9.0, 9.0, Answer([1, 2, 3, 4], calls, 8, {"cpu": seconds}))

    ways = [
        beams.Beams("sample: torch, no drafts", "sample: torch, no drafts", lambda prompt, seed: ([], 0, 0)),
        beams.Beams("sample: torch, default", "sample: torch, no drafts", lambda prompt, seed: ([], 0, 0)),
    ]
    turns = [
        Turn(number, 0, {ways[0].name: timed(2.0 * (number + 1), 4), ways[1].name: timed(4.0, 2)}, {})
        for number in range(2)
    ]
    plain, drafted = beams.rows(3, ways, turns)
    assert plain.ratio == (1.0, 1.0, 1.0)
    assert drafted.ratio == pytest.approx((0.75, 0.5, 1.0))
    assert (drafted.task, drafted.way, drafted.calls, drafted.rows) == ("sample", "torch, default", 0.5, 2.0)
    assert drafted.ms == pytest.approx(1000.0)
    cells = beams._cells(drafted)
    assert cells[3:6] == ["1000.00", "3", "0.75 (0.50–1.00)"]
