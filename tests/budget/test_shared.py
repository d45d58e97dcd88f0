"""Drafts of a round share one budget: they shrink as the batch grows, and requests whose text would change keep their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_tables import costs
from draftgraph.budget.automatic import AutoBudget
from draftgraph.budget.costs import Costs
from draftgraph.budget.shared import FEW, _Round, share_budget
from draftgraph.draft.terms import Limits
from draftgraph.request.record import RoundRecord
from draftgraph.verification.registry import get_rule

GREEDY = SimpleNamespace(temperature=0.0, seed=None)


def request(table: Costs, params: Any = GREEDY, rule: str = "walk", **options: Any) -> Any:
    plan = AutoBudget(table, **({"width": 1} | options))
    return SimpleNamespace(
        tokens=[0] * 20, text=[0] * 19, params=params, choice=SimpleNamespace(rule=get_rule(rule)), plan=plan
    )


def planned(requests: Sequence[Any], reach: int = 99) -> list[Limits]:
    return [each.plan(20, [], reach) for each in requests]


def company(table: Costs, count: int) -> list[Limits]:
    requests = [request(table) for _ in range(count)]
    return share_budget(requests, planned(requests))


def test_alone_nothing_changes() -> None:
    alone = [request(costs())]
    limits = planned(alone)
    assert share_budget(alone, limits) == limits


@pytest.mark.parametrize("row", [0.3, 1.0])
def test_drafts_shrink_as_the_batch_grows_until_plain_decoding_is_best(row: float) -> None:
    """A row costs what it costs, while the part of a pass that all share becomes smaller."""
    table = costs(row=row)
    depths = [sum(limits.depth for limits in company(table, count)) / count for count in (1, 2, 4, 8, 16, 32, 64)]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] >= 2
    assert depths[-1] < depths[0]
    dear = [limits.depth for limits in company(costs(row=6.0, drafter=2.0), 16)]
    assert dear == [0] * 16
    assert all(limits.reason.startswith("plain: ") for limits in company(costs(row=6.0, drafter=2.0), 16))


def test_beside_many_others_drafts_have_to_promise_more_than_a_little() -> None:
    """The table knows rounds of one request: for many it promises more than they get (docs/benchmarks/batches.md)."""
    little, much = costs(row=0.3), costs(row=0.02, drafter=0.1, reached=0.95)
    assert all(limits.depth for limits in company(little, FEW))
    assert not any(limits.budget for limits in company(little, FEW + 1))
    assert all(limits.depth for limits in company(much, FEW + 1))


def test_where_no_draft_pays_beside_others_no_copies_are_looked_for() -> None:
    requests = [request(costs(row=0.3), copies=True) for _ in range(FEW + 1)]
    assert all(limits.budget for limits in planned(requests))
    assert [limits.budget for limits in share_budget(requests, planned(requests))] == [0] * len(requests)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_copies_take_the_place_of_a_draft_only_where_the_whole_round_gains(count: int) -> None:
    """A round lasts as long for whoever drafts little: what decides is tokens less what they cost all."""
    requests = [request(costs(row=0.1, drafter=0.2, reached=0.9)) for _ in range(count)]
    limits = planned(requests)
    offers = [each.plan.offer(its) for each, its in zip(requests, limits, strict=True)]
    plain = _Round(requests[0].plan.costs)
    for its, offer in zip(limits, offers, strict=True):
        plain.join(its, offer)
    prices = plain.with_drafts(offers, [len(offer.levels) for offer in offers]).prices()
    levels = offers[0].levels
    price = prices.row * sum(level.nodes for level in levels) + sum(prices.passes[: len(levels)])
    tokens, drafted = prices.of_draft(levels)
    enough = drafted * prices.seconds[0]  # tokens of copies without rows from which on they are preferred
    assert tokens - price > 1.0  # drafting pays
    assert enough >= tokens - price


def rate(table: Costs, requests: Sequence[Any], depths: Sequence[int]) -> float:
    """Tokens per second with these depths, by the sums of the module's docstring."""
    offers = [each.plan.offer(limits) for each, limits in zip(requests, planned(requests), strict=True)]
    tokens, rows, outside = float(len(requests)), float(len(requests)), 0.0
    passes: dict[int, list[float]] = {}
    for offer, depth in zip(offers, depths, strict=True):
        outside += table.overhead[0] if depth else table.plain_overhead
        for number, level in enumerate(offer.levels[:depth]):
            tokens += level.tokens
            rows += level.nodes
            outside += table.overhead[1] * level.passes + table.overhead[2] * level.nodes
            passes.setdefault(number, []).append(level.passes)
    assert table.drafter is not None
    drafting = sum(table.drafter(sum(each) * offers[0].rows) * min(1.0, sum(each)) for each in passes.values())
    return tokens / (table.target(rows) + outside + drafting)


@settings(max_examples=25)
@given(st.floats(0.05, 3.0), st.floats(0.1, 4.0), st.lists(st.floats(0.2, 0.95), min_size=2, max_size=3))
def test_no_other_depths_are_much_faster(row: float, drafter: float, reached: list[float]) -> None:
    """Compared with every combination of depths; one heap need not find the very best."""
    table = costs(row=row, drafter=drafter)
    requests = [request(costs(row=row, drafter=drafter, reached=share), deepest=4) for share in reached]
    limits = planned(requests)
    if any(its.depth == 0 or its.reason.startswith("probe") for its in limits):
        return  # not all of them have drafts on offer
    chosen = [its.depth for its in share_budget(requests, limits)]
    whole = max(rate(table, requests, each) for each in product(range(5), repeat=len(requests)))
    assert rate(table, requests, chosen) >= 0.97 * whole
    assert rate(table, requests, chosen) >= rate(table, requests, [0] * len(requests)) - 1e-9


def test_who_is_accepted_more_often_drafts_deeper() -> None:
    requests = [request(costs(row=1.0, reached=share)) for share in (0.9, 0.6)]
    good, bad = share_budget(requests, planned(requests))
    assert good.depth > bad.depth


@pytest.mark.parametrize(
    ("temperature", "rule", "seed", "free"),
    [
        pytest.param(0.0, "layer", 3, True, id="greedy"),
        pytest.param(0.0, "typical", 3, False, id="greedy under a rule that accepts more"),
        pytest.param(1.0, "agree", 3, True, id="noise of positions"),
        pytest.param(1.0, "layer", 3, False, id="a seed"),
        pytest.param(1.0, "walk", 3, False, id="a seed whose rounds draw where drafts end"),
        pytest.param(1.0, "layer", None, True, id="no seed"),
    ],
)
def test_drafts_that_a_text_depends_on_are_those_of_the_request_alone(
    temperature: float, rule: str, seed: int | None, free: bool
) -> None:
    table = costs(row=1.0)
    mine = request(table, SimpleNamespace(temperature=temperature, seed=seed), rule)
    others = [request(table) for _ in range(15)]
    limits = planned([mine, *others])
    shared = share_budget([mine, *others], limits)
    assert (shared[0] == limits[0]) != free
    assert all(each.depth < its.depth for each, its in zip(shared[1:], limits[1:], strict=True))


def test_a_draft_that_was_left_out_is_not_counted_as_a_miss() -> None:
    requests = [request(costs(row=1.0, reached=0.7)) for _ in range(64)]
    before = planned(requests)
    assert all(limits.depth for limits in before)
    assert not any(limits.depth for limits in share_budget(requests, before))
    plain = RoundRecord(20, [], [], [], [], [], [], (), 5, 1, 0, 0, {}, "plain", [], [], [])
    for each, limits in zip(requests, before, strict=True):
        assert each.plan.alone(each.plan(21, [plain], 99), 21).depth == limits.depth


def test_decisions_stand_for_some_rounds_while_about_as_many_others_are_there() -> None:
    requests = [request(costs(row=0.02, drafter=0.1, reached=0.95)) for _ in range(8)]
    records: list[RoundRecord] = []
    plain = RoundRecord(20, [], [], [], [], [], [], (), 5, 1, 0, 0, {}, "plain", [], [], [])

    def decided(some: Sequence[Any]) -> list[Limits]:
        planned = [each.plan(20 + len(records), records, 99) for each in some]
        records.append(plain)
        return share_budget(some, planned)

    first = decided(requests)
    assert [each.depth for each in decided(requests)] == [each.depth for each in first]
    assert all(each.reason == first[0].reason for each in decided(requests[:7]))
    fewer = decided(requests[:3])
    assert "with 3 requests" in fewer[0].reason
    (alone,) = decided(requests[:1])
    assert "beside others" not in alone.reason
    assert alone.budget == planned_alone().budget


def planned_alone() -> Limits:
    """What a request of the test above does that has never been beside others."""
    mine = request(costs(row=0.02, drafter=0.1, reached=0.95))
    plain = RoundRecord(20, [], [], [], [], [], [], (), 5, 1, 0, 0, {}, "plain", [], [], [])
    limits: Limits = mine.plan(24, [plain] * 4, 99)
    return limits


def test_the_last_tokens_of_a_text_are_not_drafted_beyond_while_a_decision_stands() -> None:
    requests = [request(costs(row=0.02, drafter=0.1, reached=0.95)) for _ in range(4)]
    assert share_budget(requests, planned(requests))[0].depth > 2
    limits = share_budget(requests, planned(requests, 2))
    assert {min(each.depth, each.reach) for each in limits} == {2}
    assert [each.budget for each in share_budget(requests, planned(requests, 0))] == [0] * 4


def test_copies_are_cut_by_what_rows_cost_beside_others() -> None:
    table = costs(drafter=None)
    requests = [request(table, computes=False, copies=True) for _ in range(8)]
    limits = planned(requests)
    (first, *_) = shared = share_budget(requests, limits)
    assert all(its.seconds == first.seconds for its in shared)
    assert len(first.seconds) == len(limits[0].seconds)
    assert first.seconds[0] < limits[0].seconds[0]  # eight tokens come in the time of little more than one
    slopes = [its.seconds[4] - its.seconds[0] for its in (first, limits[0])]
    assert slopes[0] == pytest.approx(slopes[1], rel=0.2)  # and a row costs as much


def test_fixed_budgets_take_part_with_what_they_verify() -> None:
    table = costs(row=1.0)
    fixed = request(table)
    fixed.plan = None
    limits = [Limits(40, 8, 99), *planned([free := request(table)])]
    beside = share_budget([fixed, free], limits)
    assert beside[0] is limits[0]
    round_of = _Round(table)
    round_of.join(limits[0], None)
    assert round_of.rows == 41
    assert len(round_of.passes) == 8


@pytest.mark.parametrize("rule", ["judge", "confidence"])
@pytest.mark.parametrize("params", [GREEDY, SimpleNamespace(temperature=0.0, seed=3)])
def test_at_temperature_0_a_rule_that_is_not_lossless_keeps_the_drafts_that_its_text_depends_on(
    rule: str, params: Any
) -> None:
    requests = [request(costs(row=1.0), params, rule) for _ in range(16)]
    limits = planned(requests)
    assert limits[0].depth > 0
    assert share_budget(requests, limits) == limits
