"""Best-first growth finds the best draft, and edges only ever add to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draft_tables import Table, brute_force, check
from draftgraph.draft.edges.rows import Discounts, DraftRows, TextRows
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.base import Growth
from draftgraph.draft.structures.best_first import add_edges, grow_best_first
from draftgraph.draft.structures.chain import Chain
from draftgraph.draft.terms import Limits


def paths(graph: DraftGraph) -> dict[tuple[int, ...], float]:
    return {tuple(graph.path_tokens(node)): graph.score(node) for node in range(len(graph))}


@given(st.integers(0, 10**6), st.integers(1, 14), st.integers(1, 4))
def test_the_best_nodes_of_all(seed: int, budget: int, depth: int) -> None:
    table, limits = Table(seed), Limits(budget, depth, depth)
    graph, passes = grow_best_first(table, limits)
    check(graph, limits)
    assert paths(graph) == pytest.approx(brute_force(table, budget, depth))
    assert passes == len(table.passes) <= depth


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 6), st.integers(1, 6))
def test_limits(seed: int, budget: int, depth: int, reach: int) -> None:
    table, limits = Table(seed), Limits(budget, depth, reach, floor=0.02)
    graph, passes = grow_best_first(table, limits)
    check(graph, limits)
    assert passes <= depth
    assert all(score >= 0.02 for score in graph.scores)
    assert set(graph.fed) <= set(graph.rows)


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_width_one_is_the_greedy_chain(seed: int, budget: int) -> None:
    """A chain, which has a loop of its own, grows the same."""
    table = Table(seed)
    graph, _ = grow_best_first(table, Limits(budget, 8, 8), width=1)
    chain = Chain().grow(Growth(Limits(budget, 8, 8), Table(seed)))
    assert (chain.tokens, chain.parents) == (graph.tokens, graph.parents)
    assert chain.scores == pytest.approx(graph.scores)
    assert graph.tree().is_chain
    assert len(graph) == budget
    for node in range(len(graph)):
        assert graph.tokens[node] == int(table.row(graph.path_tokens(node)[:-1]).argmax())


def test_passes_that_do_not_pay_are_not_made() -> None:
    dear = Table(3)
    grow_best_first(dear, Limits(8, 6, 6, price_passes=(0.9,) * 6))
    free = Table(3)
    grow_best_first(free, Limits(8, 6, 6))
    assert len(dear.passes) < len(free.passes)


@given(st.integers(0, 10**6), st.integers(1, 16), st.integers(1, 3), st.integers(0, 2))
def test_edges(seed: int, budget: int, passes: int, order: int) -> None:
    """A self-similar language: rows repeat. Copies compete for the budget and never break the tree."""
    context = [0, 1, 2, 0, 1, 2, 0]
    drafted, _ = grow_best_first(Table(seed, order=order), limits := Limits(budget, passes, 7))
    discounts = Discounts()
    own = TextRows(discounts)
    own.extend(context)
    before = sum(drafted.scores)
    graph = add_edges(drafted, [DraftRows(drafted, context, discounts), own], context, limits)
    check(graph, limits)
    assert sum(graph.scores) >= before - 1e-9
    for node, parent in enumerate(graph.parents):
        if graph.origins[node] != "drafter":
            assert graph.edges[parent].source == graph.origins[node]
            assert parent not in graph.rows  # the drafter was not asked there


@given(st.integers(0, 10**6), st.integers(1, 10))
def test_with_enough_passes_the_graph_is_the_tree(seed: int, budget: int) -> None:
    """Nothing is skipped: where every node could be asked about, edges have no place."""
    limits = Limits(budget, 10, 10)
    tree, _ = grow_best_first(Table(seed), limits)
    expected = paths(tree)
    discounts = Discounts()
    graph = add_edges(tree, [DraftRows(tree, [], discounts), TextRows(discounts)], [], limits)
    assert len(tree.rows) == len(tree) + 1
    assert paths(graph) == pytest.approx(expected)
