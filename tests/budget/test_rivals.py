"""What a drafter gives where copies promise much: lines fitted to made-up rounds."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from cost_tables import costs
from draftgraph.budget.automatic import AutoBudget
from draftgraph.budget.rivals import MEMORY, USUAL, Rivals
from draftgraph.request.record import RoundRecord
from draftgraph.request.stats import PARTS


def drafted(length: int, accepted: int, rival: float, limits_reason: str) -> RoundRecord:
    """A round that drafted four tokens where copies promised `rival`."""
    return RoundRecord(
        length, [1] * 4, [-1, 0, 1, 2], [False] * 4, ["drafter"] * 4, [0.8, 0.6, 0.5, 0.4], [None] * 4,
        tuple(range(accepted)), 2, accepted + 1, 4, 4, dict.fromkeys(PARTS, 0.0), limits_reason, rival=rival,
    )  # fmt: skip


def test_before_anything_was_seen_a_part_of_what_copies_promise_is_expected() -> None:
    assert Rivals().more(3.0) == pytest.approx(2.0 * USUAL)
    assert Rivals().more(1.0) == 0.0


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_the_slope_of_the_rounds_is_found(slope: float) -> None:
    rivals, draw = Rivals(), random.Random(0)
    for _ in range(400):
        promised = 1.0 + 4.0 * draw.random()
        rivals.enter(promised, 2.0 + slope * promised + draw.gauss(0.0, 0.2))
    assert rivals.slope == pytest.approx(slope, abs=0.1)
    assert rivals.more(5.0) == pytest.approx(2.0 * slope, abs=0.3)


def test_rounds_without_copies_say_nothing_of_the_slope() -> None:
    rivals = Rivals()
    for accepted in range(int(MEMORY)):
        rivals.enter(1.0, float(accepted % 5))
    assert rivals.slope == pytest.approx(USUAL)


@pytest.mark.parametrize(("easy", "above"), [(4, True), (1, False)])
def test_where_the_drafter_gives_more_beside_copies_these_have_to_promise_more(easy: int, above: bool) -> None:
    """easy  tokens of its drafts that are accepted where copies promise three; elsewhere it is one."""
    auto, records = AutoBudget(costs(drafter=0.3, reached=0.6), copies=True), []
    for number in range(40):
        limits = auto.plan(20 + 2 * number, records, 60)
        assert limits.instead is not None
        rival = 3.0 if number % 2 else 1.0
        records.append(drafted(20 + 2 * number, easy if number % 2 else 1, rival, limits.reason))
    limits = auto.plan(100, records, 60)
    gained = limits.rate(3.0) / limits.rate(2.0)
    assert (gained > 1.15) == above


def test_rounds_of_copies_say_nothing_of_the_drafter() -> None:
    auto, records = AutoBudget(costs(drafter=0.3, reached=0.6), copies=True), []
    first = auto.plan(20, records, 60)
    for number in range(30):
        record = drafted(20 + number, 0, 3.0, "copies: first")
        records.append(replace(record, num_passes=0, num_evaluations=0))
    later = auto.plan(60, records, 60)
    assert later.rate(1.0) == first.rate(1.0)
    assert later.instead is not None
