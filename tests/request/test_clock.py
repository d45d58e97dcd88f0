"""Every second of a round is charged once: to one part, and to the request that it was spent on."""

from __future__ import annotations

import pytest

from draftgraph.request.clock import Clock, shared
from draftgraph.request.stats import PARTS


class Time:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


def spent(clock: Clock) -> dict[str, float]:
    return {part: seconds for part, seconds in clock.take().items() if seconds}


def test_nested_parts_are_not_counted_twice() -> None:
    time = Time()
    clock = Clock(time)
    with clock("drafting"):
        time.passes(1)
        for _ in range(2):
            with clock("drafter"):
                time.passes(4)
        time.passes(2)
    assert spent(clock) == {"drafting": 3, "drafter": 8}


def test_what_is_shared_is_charged_by_rows() -> None:
    time = Time()
    clocks = [Clock(time) for _ in range(3)]
    with shared("drafting", clocks, [1, 1, 2]):
        time.passes(4)
        with shared("drafter", clocks[1:], [3, 1]):
            time.passes(8)
    first, second, third = map(spent, clocks)
    assert first["drafting"] == 12 / 4  # it waited for the others' pass, as part of the drafting that they share
    assert second == {"drafting": 1, "drafter": 6}
    assert third == {"drafting": 2, "drafter": 2}


def test_what_fails_is_charged_all_the_same() -> None:
    time = Time()
    clock = Clock(time)

    def fail() -> None:
        with clock("drafting"), clock("drafter"):
            time.passes(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert spent(clock) == {"drafter": 1}
    with clock("rule"):
        time.passes(1)
    assert spent(clock) == {"rule": 1}


def test_what_is_taken_is_kept_by_its_taker_alone() -> None:
    clock = Clock(Time())
    first, second = clock.take(), clock.take()
    assert first is not second
    assert first == second == clock.seconds == dict.fromkeys(PARTS, 0.0)
