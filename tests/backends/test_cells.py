"""The slot pool: lowest slots first, nothing lost when it grows, nothing used twice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.backends.cells import CellPool

HEADS, SIZE = 2, 3


def states(slots: list[int], stamp: int) -> torch.Tensor:
    """f[1, heads, slots, size]: keys that tell which slot they were written to, and when."""
    values = torch.tensor([[100.0 * stamp + slot] for slot in slots]).expand(len(slots), SIZE)
    return values.expand(1, HEADS, len(slots), SIZE)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2**32)), max_size=30))
def test_take_and_release(steps: list[tuple[int, int]]) -> None:
    """Compared with a dictionary, through random sequences of taking, writing and releasing."""
    cache = CellPool(2)
    written: dict[int, float] = {}
    for stamp, (count, choice) in enumerate(steps):
        slots = cache.take(count)
        free = sorted(set(range(cache.capacity + count)) - set(written))
        assert slots == free[:count]
        cache.written = torch.tensor(slots, dtype=torch.long)
        written |= {slot: 100.0 * stamp + slot for slot in slots}
        for layer in cache.layers:
            if count:
                keys, values = layer.update(states(slots, stamp), -states(slots, stamp))
                assert keys.shape == values.shape == (1, HEADS, cache.high, SIZE)
                for slot, value in written.items():
                    assert bool((keys[0, :, slot] == value).all())
                    assert bool((values[0, :, slot] == -value).all())
        assert cache.high == max(written, default=-1) + 1 == cache.get_seq_length()
        assert cache._used == set(written)
        gone = [slot for i, slot in enumerate(sorted(written)) if choice >> (i % 32) & 1]
        cache.release(gone)
        for slot in gone:
            del written[slot]
        assert len(cache._free) + len(cache._used) == cache.capacity
        assert set(cache._free).isdisjoint(cache._used)
    cache.release(list(written))
    assert cache.high == 0
    assert not cache._used


def test_reserving_is_enough_and_growth_is_geometric() -> None:
    cache = CellPool(1)
    cache.reserve(100)
    assert cache.capacity == 100
    cache.take(100)
    assert cache.capacity == 100
    growths = set()
    for _ in range(400):
        cache.take(1)
        growths.add(cache.capacity)
    assert len(growths) <= 5


def test_releasing_twice_is_an_error() -> None:
    cache = CellPool(1)
    slots = cache.take(2)
    cache.release(slots)
    with pytest.raises(KeyError):
        cache.release(slots)


def test_wiping_leaves_used_slots_alone() -> None:
    cache = CellPool(1)
    slots = cache.take(6)
    cache.written = torch.tensor(slots)
    keys, values = cache.layers[0].update(states(slots, 1), states(slots, 1) * torch.nan)
    cache.release([1, 5])
    cache.wipe()
    assert keys[0, 0, :, 0].tolist() == [100.0, 0.0, 102.0, 103.0, 104.0, 0.0]
    assert values[0, 0, :, 0].isnan().tolist() == [True, False, True, True, True, False]
