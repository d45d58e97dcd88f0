"""What the turns of several ways to decode add up to. Nothing here is timed."""

from __future__ import annotations

from typing import Any

import pytest

import draftgraph as dg
from draftgraph.lab.doctor.ways import PLAIN, Way, spread, summarise, unrest
from draftgraph.lab.turns import Answer, Timed, Turn
from draftgraph.request.stats import PARTS

ENGINE: Any = None


def one(seconds: float, tokens: int = 10, rounds: int = 10, **parts: float) -> Timed:
    return Timed(0, seconds, seconds, Answer([0] * tokens, rounds, 0, dict.fromkeys(PARTS, 0.0) | parts))


def turn(prompt: int = 0, **timed: Timed) -> Turn:
    return Turn(prompt, 0, timed, {})


def test_ratios_are_taken_within_a_turn():
    way = Way("way", ENGINE, dg.SamplingParams(), {"budget": 4}, 2.2)
    turns = [
        turn(plain=one(1.0), way=one(0.5, rounds=4, drafter=0.1, target=0.2, rule=0.1)),
        turn(plain=one(3.0), way=one(1.0, rounds=4, drafter=0.3, target=0.4, commit=0.1)),
        turn(plain=one(2.0), way=one(2.0, rounds=2)),
    ]
    found = summarise(way, turns)
    assert found.speedup.median == pytest.approx(2.0)
    assert (found.speedup.low, found.speedup.high) == pytest.approx((1.2, 2.8))
    assert (found.speedup.turns, found.tokens, found.plain) == (3, 3.0, 0.2)
    assert (found.drafter, found.target, found.own) == pytest.approx((0.04, 0.06, 0.02))
    assert found.break_even == pytest.approx(1.5)
    assert (found.predicted, found.options) == (2.2, {"budget": 4})


def test_unrest_compares_a_prompt_with_itself():
    calm = [turn(prompt, **{PLAIN: one(seconds)}) for prompt, seconds in ((0, 1.0), (1, 5.0), (0, 1.0), (1, 5.0))]
    assert unrest(calm) == pytest.approx(1.0)
    assert unrest([*calm, *(turn(0, **{PLAIN: one(seconds)}) for seconds in (4.0, 4.0, 1.0))]) > 1.5


def test_a_spread_is_a_median_and_two_percentiles():
    found = spread([float(i) for i in range(11)])
    assert (found.median, found.low, found.high, found.turns) == (5.0, 1.0, 9.0, 11)
