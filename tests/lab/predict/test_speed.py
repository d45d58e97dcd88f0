"""Costs into speeds. Nothing here is timed."""

from __future__ import annotations

import numpy as np
import pytest

from draftgraph.budget.costs import Cost, Costs
from draftgraph.budget.timing import not_negative
from draftgraph.lab.predict.speed import pace


def cost(*seconds: float) -> Cost:
    return Cost((1, 2, 4), seconds, seconds, seconds, (3, 3, 3))


def test_costs_are_interpolated_and_go_on_as_the_last_two_say():
    known = cost(1.0, 1.5, 2.5)
    assert [known(rows) for rows in (1, 1.5, 3, 4, 6)] == pytest.approx([1.0, 1.25, 2.0, 2.5, 3.5])


def test_beyond_what_was_measured_more_rows_never_cost_less():
    assert cost(3.0, 1.0, 4.0).rising == pytest.approx([2.0, 2.0, 4.0])
    assert [cost(1.0, 4.0, 2.0)(rows) for rows in (8, 12)] == pytest.approx([3.0 + 4 * 2 / 3, 3.0 + 8 * 2 / 3])


def test_costs_are_as_measured_where_more_rows_cost_less():
    assert [cost(3.0, 1.0, 4.0)(rows) for rows in (1, 1.5, 2, 3)] == pytest.approx([3.0, 2.0, 1.0, 2.5])


def test_a_busy_machine_is_noticed():
    assert not cost(1.0, 1.0, 1.0).busy
    assert Cost((1, 2, 4), (5.0,) * 3, (1.0,) * 3, (9.0,) * 3, (9,) * 3).busy


def test_a_round_is_its_passes_and_what_is_around_them():
    costs = Costs(cost(10.0, 11.0, 13.0), cost(1.0, 1.0, 1.0), (0.5, 0.25, 0.125), 1.0, 1, 8)
    assert costs.plain == 11.0
    assert costs.round(3, [1.0, 2.0]) == pytest.approx(1 + 1 + 13 + 0.5 + 0.25 * 2 + 0.125 * 3)
    found = pace(costs, 2.2, 0, [])
    assert (found.seconds, found.speedup) == (10.5, pytest.approx(2.2 * 11 / 10.5))
    assert pace(costs, found.break_even, 0, []).speedup == pytest.approx(1.0)


def test_overheads_are_fitted_and_never_negative():
    parts = np.array([[1.0, 1.0, 1.0], [1.0, 4.0, 4.0], [1.0, 1.0, 4.0], [1.0, 4.0, 10.0]])
    assert not_negative(parts, parts @ [1.0, 0.5, 0.25]) == pytest.approx((1.0, 0.5, 0.25))
    fixed, per_pass, per_node = not_negative(parts, parts @ [1.0, 0.5, -0.05])
    assert min(fixed, per_pass, per_node) >= 0.0
    assert per_node == 0.0
