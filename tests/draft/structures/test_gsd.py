"""The published order: what repeats is shared, not drafted again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draft_tables import Table, check
from draftgraph.draft.structures.gsd import grow_gsd
from draftgraph.draft.terms import Limits

SEEDS = st.integers(0, 10**6)


@given(SEEDS, st.integers(1, 40), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2), st.integers(0, 2))
def test_limits_and_cycles(seed: int, budget: int, depth: int, reach: int, match: int, order: int) -> None:
    table, limits = Table(seed, order=order), Limits(budget, depth, reach)
    graph, passes = grow_gsd(table, limits, match)
    check(graph, limits)
    assert passes == len(table.passes) <= depth
    tree = graph.tree()
    assert tree.laws is None
    assert len({tuple(tree.path_tokens(node)) for node in range(len(tree))}) == len(tree)
    for node, origin in enumerate(graph.origins):
        parent = graph.parents[node]
        if parent >= 0 and graph.origins[parent] == "merge":
            assert origin == "merge"  # below a copy everything is a copy
        lender = graph.drafted_at[node]
        if origin == "merge":
            assert node not in graph.fed
            assert lender is None or lender == -1 or graph.origins[lender] == "drafter"
        else:
            assert lender == parent


@pytest.mark.parametrize("match", [0, 1])
def test_evaluations_are_saved(match: int) -> None:
    """Of the same nodes, the laxer match and the more repetitive language draft fewer."""
    limits = Limits(60, 4, 4)
    drafted = {}
    for tau in (match, 9):
        drafted[tau] = 0
        for seed in range(20):
            table = Table(seed, order=1, sharpness=1.0)
            grow_gsd(table, limits, tau)
            drafted[tau] += sum(map(len, table.passes))
    assert drafted[match] < 0.7 * drafted[9]


@given(SEEDS, st.integers(1, 30), st.sampled_from([-1, 9]))
def test_without_a_match_nothing_is_merged(seed: int, budget: int, match: int) -> None:
    graph, _ = grow_gsd(Table(seed), Limits(budget, 3, 3), match)
    assert graph.num_merged == 0
    assert not graph.edges


@given(SEEDS, st.integers(0, 2))
def test_never_merging_drafts_what_a_match_that_never_comes_drafts(seed: int, order: int) -> None:
    never, unmatched = Table(seed, order=order), Table(seed, order=order)
    limits = Limits(40, 3, 3)
    trees = [grow_gsd(table, limits, match)[0].tree() for table, match in ((never, -1), (unmatched, 9))]
    assert never.passes == unmatched.passes
    assert trees[0] == trees[1]


@given(SEEDS)
def test_a_language_that_looks_one_token_back_is_shared_exactly(seed: int) -> None:
    """There a bigram decides the row, so that copies have the very scores that drafting would have given them."""
    table = Table(seed, order=1)
    graph, _ = grow_gsd(table, Limits(40, 3, 6), 0)
    for node in range(len(graph)):
        score, path = 1.0, graph.path_tokens(node)
        for i, token in enumerate(path):
            score *= float(table.row(path[:i])[token])
        assert graph.score(node) == pytest.approx(score)
