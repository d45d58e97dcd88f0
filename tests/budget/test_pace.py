"""How much is drafted while the target verifies, and what that gives."""

from __future__ import annotations

import pytest

from cost_tables import costs
from draftgraph.budget.pace import MOST_ONWARD, Pace, keeping_step, parallel_tokens


@pytest.mark.parametrize(("drafter", "expected"), [(5.2, 1), (2.5, 2), (1.9, 3), (1.0, 5), (0.01, MOST_ONWARD)])
def test_drafting_takes_as_long_as_verifying_as_much(drafter: float, expected: int) -> None:
    table = costs(drafter=drafter)
    pace = keeping_step(table)
    assert pace.length == expected
    if 1 < pace.length < MOST_ONWARD:
        seconds = table.drafter_pass(1.0)
        assert pace.length * seconds >= table.verifying(pace.length - 1)
        assert (pace.length - 1) * seconds < table.verifying(pace.length - 2)


def test_nothing_is_drafted_where_it_cannot_be() -> None:
    pace = Pace(4, "why")
    assert (pace(9, [], 7).budget, pace(9, [], 7).depth, pace(9, [], 7).reason) == (4, 4, "draft: why")
    assert (pace(9, [], 0).budget, pace(9, [], 0).reason) == (0, "plain: the next token is the last one")
    assert (pace(9, [], 7, "beyond").budget, pace(9, [], 7, "beyond").reason) == (0, "plain: beyond")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_tokens_per_round_of_the_formula_are_those_of_a_chain_of_rounds(length: int) -> None:
    """Rounds as a Markov chain, whose only state is whether something is pending."""
    for chance in (0.0, 0.3, 0.8, 1.0):
        pending, tokens = 0.0, 0.0
        for _ in range(3000):
            tokens = (1.0 - pending) + pending * sum(chance**i for i in range(length))
            goes_on = (1.0 - pending) * chance + pending * chance**length
            pending = goes_on if length > 1 else 0.0
            before = tokens
        if chance < 1.0:
            assert parallel_tokens(chance, length) == pytest.approx(before)
        else:
            assert parallel_tokens(chance, length) == pytest.approx(float(length))
