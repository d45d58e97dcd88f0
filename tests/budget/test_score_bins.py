"""Score bins: what a score must be for a node to be worth its row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.budget.score_bins import LOWER_ENDS, ScoreBins

PRICES = st.floats(0.001, 0.999)


@given(PRICES)
def test_scores_are_believed_before_anything_was_seen(price: float):
    assert ScoreBins().floor(price) == pytest.approx(price, rel=1e-9)


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.booleans()), max_size=80), PRICES, PRICES)
def test_a_floor_is_a_score_and_rises_with_the_price(seen: list[tuple[float, bool]], one: float, other: float):
    bins = ScoreBins()
    for score, accepted in seen:
        bins.enter(score, accepted)
        bins.forget()
    low, high = sorted((one, other))
    assert 0.0 < bins.floor(low) <= bins.floor(high) <= 1.0


def test_what_the_target_does_not_confirm_needs_a_higher_score():
    bins = ScoreBins()
    for _ in range(40):
        bins.enter(0.2, accepted=False)
    assert bins.floor(0.17) == LOWER_ENDS[4], "the whole bin is not worth it"
    assert bins.floor(0.1) == LOWER_ENDS[4], "nor is what scores less"
    assert bins.floor(0.5) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.booleans()), max_size=80), st.floats(0.001, 1.0))
def test_a_score_is_worth_a_chance(seen: list[tuple[float, bool]], score: float):
    bins = ScoreBins()
    assert bins.expected(score) == pytest.approx(score), "as it says, before anything was seen"
    for scored, accepted in seen:
        bins.enter(scored, accepted)
        bins.forget()
    assert 0.0 <= bins.expected(score) <= 1.0


def test_a_bin_that_was_wrong_is_tried_again_some_day():
    bins = ScoreBins()
    for _ in range(40):
        bins.enter(0.2, accepted=False)
    before = bins.floor(0.17)
    for _ in range(200):
        bins.forget()
    assert bins.floor(0.17) < before
    assert bins.floor(0.17) == pytest.approx(0.17, rel=0.1)
