"""How often a request looks for copies: always where that takes next to nothing or pays, else now and then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import draftgraph as dg
from cost_tables import costs
from draftgraph.budget.costs import Cost
from draftgraph.budget.looks import LEAST_LOOK_SECONDS, LOOKS_SHARE, Looks
from draftgraph.draft.edges.sources import Sources
from draftgraph.request.record import COPIES
from models import plain, tiny_lm

FAST, SLOW = 2e-3, 50e-3
"""Seconds per token of plain decoding."""
LOOK_SECONDS = 3e-4


def looks(seconds: float) -> Looks:
    """Of a model that decodes plainly in so many seconds per token."""
    table = costs(drafter=None)
    added = table.plain_overhead
    return Looks(replace(table, target=flat(seconds - added), overhead=(added + LOOK_SECONDS, 0.0, 0.0)))


def flat(seconds: float) -> Cost:
    """Passes that all take as long."""
    return Cost([1, 2], *[[seconds] * 2] * 3, [1, 1])


def decide(looks: Looks, rounds: int, saved: float) -> list[bool]:
    """Whether each round looked, where every look saves so much."""
    told = []
    for _ in range(rounds):
        told.append(looks.due())
        if told[-1]:
            looks.learn(saved)
    return told


def test_looks_that_find_nothing_take_a_small_share_of_the_time():
    told = decide(looks(FAST), 2000, 0.0)
    assert told[:4] == [True] * 4
    assert told.count(True) * LOOK_SECONDS <= 1.5 * LOOKS_SHARE * 2000 * FAST
    assert told.count(True) >= 100


@pytest.mark.parametrize(("plain_seconds", "saved"), [(SLOW, 0.0), (SLOW, -1.0), (FAST, LOOK_SECONDS * 1.01)])
def test_every_round_looks_where_it_takes_next_to_nothing_or_pays(plain_seconds: float, saved: float):
    assert all(decide(looks(plain_seconds), 200, saved))


@given(st.floats(-0.1, 0.0))
def test_one_look_that_saves_time_is_followed_by_more(lost: float):
    asked = looks(FAST)
    decide(asked, 300, lost)
    while not asked.due():
        pass
    asked.learn(FAST)
    assert decide(asked, 3, 0.0) == [True] * 3


def test_a_look_takes_what_the_table_says_and_never_next_to_nothing():
    table = costs(drafter=None)
    assert looks(FAST).seconds == pytest.approx(LOOK_SECONDS)
    assert Looks(replace(table, overhead=(0.0, 0.0, 0.0))).seconds == LEAST_LOOK_SECONDS
    block = replace(table, overhead=(table.plain_overhead + LOOK_SECONDS + 0.5, 0.0, 0.0), block=0.5)
    assert Looks(block).seconds == pytest.approx(LOOK_SECONDS)


def test_a_request_that_rests_between_looks_says_the_same():
    model, table = tiny_lm(window=512), costs(drafter=None)
    engine = dg.Engine.from_pretrained(model, drafter="lookup")
    engine.__dict__["costs"] = replace(table, target=table.target.times(0.2))
    prompt = [3, 4, 5]
    result = engine.generate(prompt, max_new_tokens=160)
    assert result.token_ids == plain(model, prompt, 160)
    decided = [record.decision for record in result.rounds]
    assert decided[:3] == [COPIES] * 3
    assert min(decided.count("plain"), decided[20:].count(COPIES)) > 5


def test_rounds_that_do_not_look_keep_no_rows_and_all_tokens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Looks, "due", lambda looks: False)
    model, kept = tiny_lm(), []
    engine = dg.Engine.from_pretrained(model, drafter="lookup")
    engine.__dict__["costs"] = costs(drafter=None)
    monkeypatch.setattr(Sources, "pass_over", lambda sources, tokens: kept.extend(tokens))
    result = engine.generate([3, 4, 5], max_new_tokens=12)
    assert result.token_ids == kept == plain(model, [3, 4, 5], 12)
    assert {record.decision for record in result.rounds} == {"plain"}
