"""The pool of cells: lowest ones first, nothing lost when it grows or shrinks, and nothing held but by who holds it."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.backends.base import CacheHandle
from draftgraph.backends.cells import KEPT_CELLS, CellPool

HEADS, SIZE = 2, 3
CPU = torch.device("cpu")


def states(cells: list[int], stamp: int) -> torch.Tensor:
    """f[1, heads, cells, size]: keys that tell which cell they were written to, and when."""
    values = torch.tensor([[1000.0 * stamp + cell] for cell in cells]).expand(len(cells), SIZE)
    return values.expand(1, HEADS, len(cells), SIZE)


def write(pool: CellPool, handle: CacheHandle, count: int, stamp: int = 1) -> list[int]:
    """A pass over `count` committed rows: the cells that they were written to."""
    cells = pool.find([handle], count)
    handle.slots = np.append(handle.slots, cells)
    pool.begin(cells, CPU)
    for layer in pool.layers:
        keys, values = layer.update(states(cells, stamp), -states(cells, stamp))
        assert keys.shape == values.shape == (1, HEADS, pool.high, SIZE)
    pool.end()
    return cells


def kept(pool: CellPool) -> list[int]:
    """How many cells have memory, per tensor."""
    return [0 if held is None else held.shape[2] for layer in pool.memory.tensors for held in layer]


@given(st.lists(st.tuples(st.integers(1, 700), st.integers(0, 3), st.booleans()), max_size=30))
def test_rows_stay_where_they_were_written(steps: list[tuple[int, int, bool]]) -> None:
    """Compared with a dictionary, through random sequences of passes and of requests that end."""
    pool = CellPool(2)
    handles = [CacheHandle() for _ in range(4)]
    written: dict[int, float] = {}
    for stamp, (count, which, ends) in enumerate(steps):
        handle = handles[which]
        lowest = [cell for cell in range(len(written) + count) if cell not in written][:count]
        assert write(pool, handle, count, stamp) == lowest
        written |= {cell: 1000.0 * stamp + cell for cell in lowest}
        assert pool.high == max(written) + 1 == pool.get_mask_sizes(count, 0)[0] <= pool.capacity
        assert pool.get_seq_length() == pool.high - count  # beside the rows of the pass
        assert pool._used == set(written)
        for keys, values in pool.memory.tensors:
            assert keys is not None
            assert values is not None
            for cell in list(written)[:: len(written) // 7 + 1]:
                assert bool((keys[0, :, cell] == written[cell]).all())
                assert bool((values[0, :, cell] == -written[cell]).all())
        if ends:
            for cell in handle.slots.tolist():
                del written[cell]
            handle.clear()
            pool.drop_unused()
    for handle in handles:
        handle.clear()
    pool.drop_unused()
    assert not pool._used
    assert max(kept(pool)) <= KEPT_CELLS


def test_growth_is_geometric_and_reaches_what_a_request_says_it_needs() -> None:
    pool, handle = CellPool(1), CacheHandle(room=100)
    write(pool, handle, 10)
    assert pool.capacity == 100
    write(pool, handle, 90)
    assert pool.capacity == 100
    growths = set()
    for _ in range(400):
        write(pool, handle, 1)
        growths.add(pool.capacity)
    assert len(growths) <= 5


def test_what_is_mostly_empty_shrinks_while_others_go_on() -> None:
    pool, long, short = CellPool(1), CacheHandle(), CacheHandle()
    first = write(pool, short, 5)
    write(pool, long, 20 * KEPT_CELLS, stamp=2)
    long.clear()
    pool.drop_unused()
    assert kept(pool) == [pool.capacity] * 2  # `short` is still there
    sizes = []
    for _ in range(5):
        write(pool, short, 1, stamp=3)
        sizes.append(kept(pool)[0])
    assert sizes == [KEPT_CELLS] * 5
    keys = pool.memory.tensors[0][0]
    assert keys is not None
    assert keys[0, 0, first, 0].tolist() == [1000.0 + cell for cell in first]


def test_memory_is_given_back_with_the_last_request_but_for_a_part() -> None:
    pool = CellPool(2)
    for size, left in ((KEPT_CELLS - 1, KEPT_CELLS - 1), (3 * KEPT_CELLS, 0), (7, KEPT_CELLS)):
        handle = CacheHandle()
        write(pool, handle, size)
        handle.clear()
        pool.drop_unused()
        assert kept(pool) == [left] * 4


def test_a_handle_that_is_gone_holds_nothing() -> None:
    pool, handle = CellPool(1), CacheHandle()
    write(pool, handle, 6)
    assert pool._used == set(range(6))
    del handle
    gc.collect()
    assert pool._used == set()
    assert write(pool, CacheHandle(), 2) == [0, 1]


def test_clearing_twice_takes_nothing_from_others() -> None:
    pool, ended = CellPool(1), CacheHandle()
    write(pool, ended, 4)
    ended.clear()
    other = CacheHandle()
    cells = write(pool, other, 4)
    ended.clear()
    assert pool._used == set(cells) == set(range(4))


def test_nodes_of_a_round_hold_their_cells() -> None:
    pool, handle = CellPool(1), CacheHandle()
    write(pool, handle, 2)
    cells = pool.find([handle], 2)
    handle.nodes = [[cells[0]], [cells[0], cells[1]]]
    assert pool._used == {0, 1, 2, 3}
    assert write(pool, CacheHandle(), 1) == [4]


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_what_a_failed_pass_wrote_is_zeroed_before_the_next(spoilt: float) -> None:
    pool, good, bad = CellPool(1), CacheHandle(), CacheHandle()
    write(pool, good, 2)
    cells = pool.find([bad], 2)
    bad.slots = np.array(cells)
    pool.begin(cells, CPU)
    pool.layers[0].update(states(cells, 1) * spoilt, states(cells, 1) * spoilt)
    bad.clear()  # without `end`: it came to nothing
    write(pool, good, 1, stamp=4)
    for held in pool.memory.tensors[0]:
        assert held is not None
        assert held[0, 0, :, 0].abs().tolist() == [1000.0, 1001.0, 4002.0, 0.0]
