"""The number of rows changes rarely, and never wastes much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.backends.openvino.buckets import CHANGE, ROUNDED_CHANGE, SIZES, Buckets
from draftgraph.backends.openvino.precision import Precision

EXACT, ROUNDED = Precision(), Precision("bf16")
CHANGES = {EXACT: CHANGE, ROUNDED: ROUNDED_CHANGE}


@pytest.mark.parametrize("precision", [EXACT, ROUNDED])
@given(st.lists(st.integers(1, 2 * SIZES[-1]), max_size=60))
def test_a_size_is_enough_and_no_more_is_wasted_than_a_change_costs(precision: Precision, passes: list[int]) -> None:
    buckets, held, wasted = Buckets(precision), 0, 0
    for rows in passes:
        size = buckets.size(rows)
        needed = rows if rows > SIZES[-1] else min(each for each in SIZES if each >= rows)
        assert needed <= size
        wasted = wasted + size - needed if size == held and size > needed else 0
        assert wasted < CHANGES[precision]
        held = size


def test_a_larger_size_is_taken_at_once_and_left_when_it_has_wasted_a_change() -> None:
    buckets = Buckets(EXACT)
    assert [buckets.size(rows) for rows in (5, 6, 5, 5, 5)] == [5, 6, 6, 6, 5]
    buckets = Buckets(ROUNDED)
    assert [buckets.size(rows) for rows in (6, *[2] * 6)] == [6, 6, 6, 6, 2, 2, 2]


def test_the_largest_of_the_rows_that_were_needed_meanwhile_is_taken() -> None:
    buckets = Buckets(ROUNDED)
    assert [buckets.size(rows) for rows in (12, 5, 8, 3, 3)] == [12, 12, 12, 8, 8]


def test_what_is_needed_again_in_time_starts_the_count_anew() -> None:
    buckets = Buckets(ROUNDED)
    assert [buckets.size(rows) for rows in (6, 2, 2, 2, 6, 2, 2, 2, 2)] == [6] * 8 + [2]


def test_a_single_row_after_a_long_prompt_is_not_padded() -> None:
    buckets = Buckets(EXACT)
    assert [buckets.size(rows) for rows in (500, 37, 1, 2, 1)] == [500, 40, 1, 2, 2]
