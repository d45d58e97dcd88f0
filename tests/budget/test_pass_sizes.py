"""What copies cost depends on the size that the last pass had."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cost_tables import costs
from draftgraph.budget.automatic import MOST_COPIES, AutoBudget
from draftgraph.budget.pass_sizes import CHANGES_UPWARD, DWELL_ROUNDS, STEP_TOKENS, PassSizes
from draftgraph.draft.whole_sizes import paying
from draftgraph.request.record import RoundRecord

SIZES, CHANGE = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64), 3e-3
TABLE = replace(costs(drafter=None), target=replace(costs().target, sizes=SIZES, change=CHANGE))


def after(*rows: int) -> PassSizes:
    sizes = PassSizes(TABLE, MOST_COPIES)
    for each in rows:
        sizes.passed(each)
    return sizes


def test_a_request_without_rounds_pays_what_the_table_says() -> None:
    assert [*after().seconds()] == [TABLE.plain, *TABLE.verifying_each[1 : MOST_COPIES + 1]]


def test_a_larger_pass_than_the_last_one_pays_for_there_and_back_and_a_smaller_one_its_share() -> None:
    steady, seconds = after().seconds(), after(1, 6).seconds()
    more = [later - first for first, later in zip(steady, seconds, strict=True)]
    assert more[:4] == pytest.approx([CHANGE / DWELL_ROUNDS] * 4)  # 1 to 4 rows
    assert more[4:6] == pytest.approx([0.0] * 2)
    assert more[6:] == pytest.approx([CHANGES_UPWARD * CHANGE] * (MOST_COPIES - 5))


def test_few_more_copies_are_worth_a_row_each_but_not_a_change() -> None:
    gains = [0.5, 0.4, 0.3]
    assert paying(gains, after(6).seconds()).size == 3
    assert paying(gains, after(2).seconds()).size == 1


def test_a_target_that_takes_passes_as_they_are_has_no_sizes() -> None:
    sizes = PassSizes(costs(drafter=None), MOST_COPIES)
    before = [*sizes.seconds()]
    sizes.passed(6)
    assert [*sizes.seconds()] == before


def test_every_path_reads_the_text_before_it() -> None:
    sizes = PassSizes(replace(TABLE, target=replace(TABLE.target, path=2e-3, path_reading=1e-6)), MOST_COPIES)
    assert sizes.path(TABLE.context - 1) == pytest.approx(2e-3)
    assert sizes.path(TABLE.context + 500) == pytest.approx(2.5e-3)


def test_every_row_reads_the_text_before_it() -> None:
    far = PassSizes(replace(TABLE, target=replace(TABLE.target, reading=1e-6)), MOST_COPIES)
    more = [
        later - first for first, later in zip(far.seconds(), far.behind(TABLE.context + 10 * STEP_TOKENS), strict=True)
    ]
    assert more[:6] == pytest.approx([10e-6 * STEP_TOKENS * rows for rows in (2, 2, 4, 4, 6, 6)])
    assert far.behind(TABLE.context + 11 * STEP_TOKENS - 1) is far.behind(TABLE.context + 10 * STEP_TOKENS)
    assert [*far.behind(TABLE.context - 1)] == [*far.seconds()]


def test_the_budget_of_copies_follows_the_rounds_of_its_request() -> None:
    plan = AutoBudget(TABLE, computes=False, copies=True)
    rounds = [
        RoundRecord(20, [1] * 5, range(-1, 4), [False] * 5, ["context"] * 5, [0.5] * 5, [None] * 5, (), 5, 1, 0, 0, {})
    ]
    assert [*plan(20, rounds, 50).seconds] == [*after(6).seconds()]
