"""Two calls side by side: at the same time, or in turn on a clock that goes on by the longer one."""

from __future__ import annotations

import contextvars
import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch

from draftgraph.engine.lanes import InTurn, Lanes, Threads, few_threads
from draftgraph.request.clock import Clock

SECONDS = 300.0
"""No wait of a test is longer."""


@pytest.mark.parametrize("make", [lambda: Threads(1), InTurn])
def test_results_and_errors_of_both_come_back(make: Callable[[], Lanes]) -> None:
    lanes = make()
    both = lanes.run(lambda: 1, lambda: "a", Clock(lanes.now))
    assert (both.scored, both.drafted) == (1, "a")
    assert 0.0 <= both.overlapped <= both.seconds
    failed = lanes.run(lambda: 1 // 0, lambda: [][0], Clock(lanes.now))
    assert isinstance(failed.scored, ZeroDivisionError)
    assert isinstance(failed.drafted, IndexError)
    assert lanes.run(lambda: 2, lambda: "b", Clock(lanes.now)).scored == 2


@pytest.mark.parametrize("make", [lambda: Threads(1), InTurn])
def test_calls_record_no_gradients_and_see_the_variables_of_their_caller(make: Callable[[], Lanes]) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    lanes = make()
    both = lanes.run(lambda: (torch.is_inference_mode_enabled(), variable.get()), variable.get, Clock(lanes.now))
    assert both.scored == (True, 7)
    assert both.drafted == 7


def test_threads_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2)
    both = Threads(1).run(lambda: meeting.wait(SECONDS), lambda: meeting.wait(SECONDS), Clock())
    assert {both.scored, both.drafted} == {0, 1}


def test_what_is_no_error_of_a_program_is_raised_once_both_are_done() -> None:
    ended = threading.Event()

    def score() -> None:
        time.sleep(0.1)
        ended.set()

    def leave() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        Threads(1).run(score, leave, Clock())
    assert ended.is_set()


def test_threads_end_with_their_owner() -> None:
    lanes = Threads(1)
    (name,) = {lanes.run(threading.current_thread, threading.current_thread, Clock()).scored}
    assert isinstance(name, threading.Thread)
    del lanes
    gc.collect()
    name.join(SECONDS)
    assert not name.is_alive()


@pytest.mark.parametrize(("scoring", "drafting"), [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0)])
def test_the_clock_goes_on_by_the_longer_call(scoring: float, drafting: float) -> None:
    passed = [0.0]

    def take(seconds: float) -> None:
        passed[0] += seconds

    lanes = InTurn(lambda: passed[0])
    clock = Clock(lanes.now)
    for number in range(1, 4):
        both = lanes.run(lambda: take(scoring), lambda: take(drafting), clock)
        assert lanes.now() == pytest.approx(number * max(scoring, drafting))
        assert (both.seconds, both.overlapped) == pytest.approx((scoring, min(scoring, drafting)))
    assert clock.seconds["drafting"] == pytest.approx(3 * drafting)
    assert clock.seconds["target"] == pytest.approx(3 * max(0.0, scoring - drafting))


def test_fewer_threads_are_for_a_while() -> None:
    before = torch.get_num_threads()
    counted: list[int] = []
    with suppress(KeyError), few_threads(before + 1):
        counted.append(torch.get_num_threads())
        raise KeyError
    assert [*counted, torch.get_num_threads()] == [before + 1, before]
    with few_threads(None):
        assert torch.get_num_threads() == before


def test_each_thread_has_its_number_of_kernel_threads() -> None:
    before = torch.get_num_threads()
    both = Threads(before + 1).run(torch.get_num_threads, torch.get_num_threads, Clock())
    assert (both.scored, both.drafted) == (before + 1, before + 1)
    assert torch.get_num_threads() == before


def test_where_the_program_has_ended_and_pools_take_no_more_calls_run_all_the_same() -> None:
    """So it is for a thread that goes on when the main thread is done."""
    lanes = Threads(1)
    lanes.run(lambda: 1, lambda: 2, Clock())
    assert lanes._pool is not None
    lanes._pool.shutdown()

    def fail() -> None:
        raise IndexError("no")

    both = lanes.run(lambda: (torch.is_inference_mode_enabled(), 3), fail, Clock())
    assert both.scored == (True, 3)
    assert isinstance(both.drafted, IndexError)
