"""Both schedules in turns: paces by the clock that counts, and what a pass takes."""

from __future__ import annotations

from typing import Any, cast

import pytest
from experiments.parallel import PARALLEL, PLAIN, SEQUENTIAL, VIRTUAL, Decoder, blocks, ratio, rows

from draftgraph.lab.turns import Answer, Timed, Turn
from draftgraph.request.record import RoundRecord
from draftgraph.request.stats import PARTS


def record(count: int, drafter: float, target: float) -> RoundRecord:
    """A round that verified `count` - 1 tokens while it drafted `count`."""
    seconds = dict.fromkeys(PARTS, 0.0) | {"drafter": count * drafter, "target": max(0.0, target - count * drafter)}
    nodes: list[Any] = [0] * (count - 1)
    return RoundRecord(
        9, nodes, range(-1, count - 2), nodes, nodes, nodes, nodes, (), 1, 1, count, count, seconds,
        onward=[0] * count, overlapped=min(target, count * drafter),
    )  # fmt: skip


def way(name: str, count: int) -> Decoder:
    return Decoder(name, cast(Any, None), count, 8, [record(count, 1e-3, 3.5e-3)] * 3 if count else [])


def test_the_virtual_clock_counts_its_own_seconds_and_tells_what_passes_take() -> None:
    ways = [way(PLAIN, 0), *(way(name, count) for name in (SEQUENTIAL, PARALLEL, VIRTUAL) for count in (2, 4))]

    def timed(one: Decoder) -> Timed:
        seconds = {PLAIN: 8.0, SEQUENTIAL: 4.0, PARALLEL: 5.0, VIRTUAL: 99.0}[one.way] + one.count
        return Timed(0, seconds, seconds, Answer([1, 2], 1, 4, {"drafter": 1.0, "target": 2.0}))

    turns = [Turn(n, 0, {one.name: timed(one) for one in ways}, {}) for n in range(3)]
    found = list(rows("pair", "torch", ways, turns))
    by = {(row.way, row.count): row for row in found}
    assert by[VIRTUAL, 4].ms == pytest.approx((1500.0, 1500.0, 1500.0))
    assert by[PARALLEL, 2].ms[0] == pytest.approx(3500.0)
    assert by[SEQUENTIAL, 2].gain == pytest.approx(1.0)
    assert by[PARALLEL, 2].gain == pytest.approx(3.0 / 3.5)
    told = ratio("pair", "torch", ways, found)
    assert (told.drafter, told.target, told.step) == pytest.approx((1.0, 3.5, 4))
    assert told.best == (2, 2, 2)
    assert len(blocks(found, [told], 3, 8)) == 7
