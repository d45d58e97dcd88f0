"""Buckets, and a pool whose cells stay where they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from draftgraph.backends.base import CacheHandle
from draftgraph.backends.static_pass import (
    LEAST_CAPACITY,
    LEAST_CELLS,
    SCRATCH_CELL,
    StaticPool,
    bucket_cells,
    bucket_rows,
)


@given(st.integers(1, 10**6))
def test_a_bucket_of_cells_holds_them_and_wastes_at_most_a_fifth(cells: int) -> None:
    size = bucket_cells(cells)
    assert size >= cells
    assert size == LEAST_CELLS or size - cells < size / 5 + 1
    assert size % 64 == 0, "attention kernels want aligned masks"
    assert bucket_cells(size) == size


@given(st.integers(1, 1024))
def test_a_bucket_of_rows_is_the_next_power_of_two(rows: int) -> None:
    size = bucket_rows(rows)
    assert size // 2 < rows <= size
    assert size & (size - 1) == 0


def test_no_request_gets_the_scratch_cell() -> None:
    pool = StaticPool(2)
    handle = CacheHandle(4)
    assert SCRATCH_CELL not in pool.find([handle], 300)
    assert pool.high == bucket_cells(301)


def test_memory_only_grows_and_then_by_half_at_least() -> None:
    pool = StaticPool(2)
    handle = CacheHandle(4)
    pool.find([handle], 3)
    assert pool.capacity == LEAST_CAPACITY
    handle.room = LEAST_CAPACITY + 1
    pool.find([handle], 3)
    assert pool.capacity >= 2 * LEAST_CAPACITY
    grown = pool.capacity
    handle.room = 0
    pool.find([handle], 3)
    assert pool.capacity == grown
