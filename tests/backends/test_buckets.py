"""The number of rows changes rarely, and never wastes much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from draftgraph.backends.buckets import Buckets

SIZES, WASTE = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64), 6


@given(st.lists(st.integers(1, 2 * SIZES[-1]), max_size=60))
def test_a_size_is_enough_and_what_is_computed_for_nothing_costs_no_more_than_changes(passes: list[int]) -> None:
    buckets, wasted = Buckets(SIZES, WASTE), 0
    for rows in passes:
        before, size = buckets.held, buckets.size(rows)
        needed = rows if rows > SIZES[-1] else min(each for each in SIZES if each >= rows)
        assert needed <= size
        assert buckets.held == (0 if rows > SIZES[-1] else size)
        wasted = wasted + size - needed if size == before and needed < size else 0
        assert wasted <= WASTE


def test_a_larger_size_stays_until_its_spare_rows_have_cost_a_change() -> None:
    buckets = Buckets(SIZES, WASTE)
    assert [buckets.size(rows) for rows in (5, 6, 4, 5)] == [5, 6, 6, 6]
    assert [buckets.size(4) for _ in range(4)] == [6, 5, 5, 5]


def test_a_size_that_is_needed_again_begins_anew() -> None:
    buckets = Buckets(SIZES, WASTE)
    assert [buckets.size(rows) for rows in (6, 2, 6, 2, 2)] == [6, 6, 6, 6, 2]


def test_a_single_row_after_a_long_prompt_is_not_padded() -> None:
    buckets = Buckets(SIZES, WASTE)
    assert [buckets.size(rows) for rows in (500, 37, 1, 2, 1)] == [500, 64, 1, 2, 2]
