"""Turns of several ways to decode, and what they add up to. Nothing here is timed."""

from __future__ import annotations

from typing import Any

import pytest

import draftgraph as dg
from draftgraph.lab.turns import MIN_TURNS, PLAIN, Arm, Run, share_of_core, spread, summarise, take_turns, unrest
from draftgraph.request.stats import PARTS
from models import perturbed, tiny_lm


def one(seconds: float, tokens: int = 10, rounds: int = 10, prompt: int = 0, **parts: float) -> Run:
    return Run(prompt, seconds, tokens, rounds, dict.fromkeys(PARTS, 0.0) | parts, 0.5 * seconds)


def test_ratios_are_taken_within_a_turn():
    engine: Any = None
    way = Arm("way", engine, {"budget": 4}, 2.2)
    turns = [
        {PLAIN: one(1.0), "way": one(0.5, rounds=4, drafter=0.1, target=0.2, rule=0.1)},
        {PLAIN: one(3.0), "way": one(1.0, rounds=4, drafter=0.3, target=0.4, commit=0.1)},
        {PLAIN: one(2.0), "way": one(2.0, rounds=2)},
    ]
    found = summarise(way, turns)
    assert found.speedup.median == pytest.approx(2.0)
    assert (found.speedup.low, found.speedup.high) == pytest.approx((1.2, 2.8))
    assert (found.speedup.turns, found.tokens, found.plain) == (3, 3.0, 0.2)
    assert (found.drafter, found.target, found.own) == pytest.approx((0.04, 0.06, 0.02))
    assert found.break_even == pytest.approx(1.5)
    assert (found.predicted, found.options) == (2.2, {"budget": 4})


def test_unrest_compares_a_prompt_with_itself():
    calm = [{PLAIN: one(seconds, prompt=prompt)} for prompt, seconds in ((0, 1.0), (1, 5.0), (0, 1.0), (1, 5.0))]
    assert unrest(calm) == pytest.approx(1.0)
    assert unrest([*calm, {PLAIN: one(4.0)}, {PLAIN: one(4.0)}, {PLAIN: one(1.0)}]) > 1.5


def test_a_thread_that_had_to_wait_for_its_core():
    assert share_of_core([{PLAIN: one(1.0), "way": one(3.0)}]) == pytest.approx(0.5)


def test_a_spread_is_a_median_and_two_percentiles():
    found = spread([float(i) for i in range(11)])
    assert (found.median, found.low, found.high, found.turns) == (5.0, 1.0, 9.0, 11)


def test_every_way_takes_its_turn_on_every_prompt():
    target = tiny_lm()
    arms = [
        Arm(PLAIN, dg.Engine.from_pretrained(target, budget=0), {}),
        Arm("model", dg.Engine.from_pretrained(target, draft_model=perturbed(target)), {}),
    ]
    params = dg.SamplingParams(max_new_tokens=4, ignore_eos=True)
    turns = take_turns(arms, [[1, 2], [3, 4]], params, seconds=0.0, first=1)
    assert len(turns) == MIN_TURNS
    assert [turn["model"].prompt for turn in turns] == [1, 0, 1]
    for turn in turns:
        assert turn.keys() == {PLAIN, "model"}
        assert turn[PLAIN].rounds == turn[PLAIN].tokens == turn["model"].tokens == 4
        assert turn["model"].seconds > 0
