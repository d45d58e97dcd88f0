"""The number of FIXED nodes that is verified: compared with every other number, on tables of any form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import draftgraph as dg
from cost_tables import cost, costs
from draftgraph.budget.automatic import AutoBudget
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.terms import Limits
from draftgraph.draft.whole_sizes import cut, paying, unrolled
from draftgraph.types import ROOT
from models import plain, tiny_lm

HUMP = (1.0, 1.75, 2.2, 1.77, 1.95, 2.1)
"""Seconds of a pass that a real model took for 1, 2, 3, ... rows: neither monotone nor convex."""
GAINS = st.lists(st.floats(0.0, 1.0), max_size=12)
SECONDS = st.lists(st.floats(0.01, 10.0), min_size=1, max_size=12)


def priced(seconds: Sequence[float], **more: Any) -> Limits:
    return Limits(99, 0, 99, seconds=seconds, **more)


def rate(gains: list[float], seconds: list[float], size: int) -> float:
    return (1.0 + sum(gains[:size])) / seconds[size]


@given(GAINS, SECONDS)
def test_no_other_size_gives_more_tokens_per_second(gains: list[float], seconds: list[float]):
    sizes = range(min(len(gains), len(seconds) - 1) + 1)
    best = paying(gains, seconds).size
    assert best in sizes
    assert rate(gains, seconds, best) >= max(rate(gains, seconds, size) for size in sizes) * (1 - 1e-12)


@pytest.mark.parametrize(
    ("gains", "size"),
    [
        pytest.param([0.6, 0.5, 0.4, 0.1, 0.1], 3, id="three nodes where one and two lose"),
        pytest.param([0.6, 0.5], 0, id="no third node to be had"),
        pytest.param([0.9], 1, id="one that is almost certain"),
        pytest.param([0.2, 0.2, 0.2, 0.1, 0.1], 0, id="none where nothing pays"),
        pytest.param([], 0, id="no nodes"),
    ],
)
def test_a_draft_is_weighed_as_a_whole(gains: list[float], size: int):
    assert paying(gains, HUMP).size == size


def branches() -> DraftGraph:
    graph = DraftGraph()
    for parent, token, score in ((ROOT, 7, 0.9), (ROOT, 8, 0.3), (0, 9, 0.9), (1, 10, 0.2), (2, 11, 0.5)):
        graph.fix(parent, token, score)
    return graph


@pytest.mark.parametrize(("free", "tokens"), [(0, []), (1, [7]), (2, [7, 9]), (3, [7, 9, 11]), (4, [7, 8, 9, 11])])
def test_the_likeliest_nodes_stay_with_their_parents(free: int, tokens: list[int]):
    graph = cut(branches(), priced([1.0] * (free + 1) + [9.0] * 5))
    assert graph.tokens == tokens
    assert all(parent < node for node, parent in enumerate(graph.parents))


def test_without_seconds_every_node_stays():
    graph = branches()
    assert cut(graph, priced(())) is graph
    assert cut(graph, priced([1.0] * 6)) is graph


def test_nodes_count_for_what_their_scores_turned_out_to_be_worth():
    assert len(cut(branches(), priced(HUMP, worth=lambda score: 0.0))) == 0


@given(st.lists(st.integers(0, 1 << 20), max_size=14))
def test_unrolled_rows_and_paths_are_those_of_all_leaves(choices: list[int]):
    parents = [choice % (node + 1) - 1 for node, choice in enumerate(choices)]
    graph = DraftGraph()
    for parent in parents:
        graph.fix(parent, len(graph), 1.0)
    depths = [graph.depth(node) for node in range(len(parents))]
    leaves = [node for node in range(len(parents)) if node not in parents]
    assert unrolled(parents)[-1] == (max(1, sum(1 + depths[leaf] for leaf in leaves)), max(1, len(leaves)))
    assert [unrolled(parents[:count])[-1] for count in range(len(parents) + 1)] == unrolled(parents)


@pytest.mark.parametrize(
    ("seconds", "tokens"),
    [
        pytest.param([1.0] * 9, [7, 8, 9, 10, 11], id="rows that cost nothing take both paths"),
        pytest.param([1.0] * 4 + [2.0] * 5, [7, 9, 11], id="a branch costs the rows of its path"),
        pytest.param([1.0] * 4, [7, 9, 11], id="nothing is known of more rows"),
        pytest.param([1.0] * 3 + [2.0] * 6, [7, 9], id="a path is cut"),
        pytest.param([1.0] + [9.0] * 8, [], id="nothing pays"),
    ],
)
def test_a_branch_is_taken_where_its_whole_path_pays(seconds: list[float], tokens: list[int]):
    assert cut(branches(), priced(seconds, path=0.0)).tokens == tokens


@pytest.mark.parametrize(("path", "tokens"), [(0.1, [7, 8, 9, 10, 11]), (0.2, [7, 9, 11])])
def test_a_branch_is_taken_where_it_pays_for_a_path_more(path: float, tokens: list[int]):
    assert cut(branches(), priced([1.0] * 9, path=path)).tokens == tokens


def test_a_path_goes_on_beyond_a_likelier_branch_that_costs_more():
    graph = DraftGraph()
    for parent, token, score in ((ROOT, 7, 0.9), (ROOT, 8, 0.6), (0, 9, 0.5), (2, 10, 0.5)):
        graph.fix(parent, token, score)
    assert cut(graph, priced([1.0] * 4 + [3.0] * 5, path=0.0)).tokens == [7, 9, 10]
    assert cut(graph, priced([1.0] * 4 + [3.0] * 5)).tokens == [7, 8, 9]


@pytest.mark.parametrize("drafter", [None, 9.0])
def test_a_table_with_a_hump_drafts_more_than_the_hump(drafter: float | None):
    """One copy and two cost more than all that they can give; four cost .77 of a token, and pay where a text repeats."""
    rows = (1, 2, 3, 5, 6, 9, 33)
    table = costs(drafter=drafter)
    dear = replace(table, target=cost(*(5e-3 * part for part in (1.0, 2.2, 3.3, *HUMP[3:], 3.5)), rows=rows))
    model = tiny_lm()
    options = {"drafter": "lookup"} if drafter is None else {"draft_model": tiny_lm(seed=1)}
    engine = dg.Engine.from_pretrained(model, **options)
    engine.__dict__["costs"] = dear
    prompt = [1, 2, 3, 4, 5, 6] * 5
    result = engine.generate(prompt, max_new_tokens=90)
    assert result.token_ids == plain(model, prompt, 90)
    sizes = {len(record.tokens) for record in result.rounds}
    assert sizes & set(range(4, 33))
    assert not sizes & {1, 2}
    assert {record.decision for record in result.rounds} <= {"copies", "plain"}


def test_a_request_whose_copies_fail_goes_back_to_plain_decoding():
    auto = AutoBudget(costs(drafter=None, row=1.0), computes=False, copies=True)
    limits = auto.plan(20, [], 99)
    scores = [0.5**depth for depth in range(1, 6)]
    assert paying([limits.worth(score) for score in scores], limits.seconds).size > 0
    for _ in range(40):
        for score in scores:
            auto.forms[0].ledger.copied.enter(score, accepted=False)
    assert paying([limits.worth(score) for score in scores], limits.seconds).size == 0
