"""The number of rows changes rarely, and never wastes much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from draftgraph.backends.openvino.buckets import PATIENCE, SIZES, WASTE, Buckets


@given(st.lists(st.integers(1, 2 * SIZES[-1]), max_size=60))
def test_a_size_is_enough_and_not_too_much(passes: list[int]) -> None:
    buckets = Buckets()
    for rows in passes:
        size = buckets.size(rows)
        needed = rows if rows > SIZES[-1] else min(each for each in SIZES if each >= rows)
        assert needed <= size
        assert size == needed or size < WASTE * needed


def test_a_larger_size_stays_until_a_smaller_one_was_enough_for_long() -> None:
    buckets = Buckets()
    assert [buckets.size(rows) for rows in (5, 6, 4, 5)] == [5, 6, 6, 6]
    assert [buckets.size(4) for _ in range(PATIENCE)] == [6] * (PATIENCE - 3) + [5] * 3


def test_a_single_row_after_a_long_prompt_is_not_padded() -> None:
    buckets = Buckets()
    assert [buckets.size(rows) for rows in (500, 37, 1, 2, 1)] == [500, 40, 1, 2, 2]
