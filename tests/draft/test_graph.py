"""Unrolling: bounded by the budget, best first, without cycles, whatever the edges say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draft_tables import Drawn, Table, check
from draftgraph.draft.edges.rows import Discounts, DraftRows, TextRows
from draftgraph.draft.graph import DRAFTED, DraftGraph, Edge, Row, RowKey
from draftgraph.draft.structures.calibrate import Calibration
from draftgraph.draft.structures.levels import grow_levels
from draftgraph.draft.terms import Limits
from draftgraph.draft.unroll import Unroller
from draftgraph.types import FIXED, ROOT


class Loop:
    """An adversarial source: every prefix continues by the same few rows, forever."""

    def __init__(self, rows: int = 1, factor: float = 1.0) -> None:
        self.rows, self.factor = rows, factor

    def match(self, suffix: Sequence[int]) -> Edge | None:
        return Edge(Row([1, 2], [0.6, 0.4]), ("loop", 0), self.factor, "merge", 1)

    def follow(self, key: RowKey, token: int) -> tuple[RowKey, Row] | None:
        return ("loop", (key[1] + 1) % self.rows), Row([1, 2], [0.6, 0.4])


def unroll(
    sources: Sequence[object], budget: int, depth: int, floor: float = 0.0, width: int | None = None
) -> DraftGraph:
    graph = DraftGraph()
    Unroller(graph, sources, [1, 1], floor, width).grow([ROOT], budget, depth)  # type: ignore[arg-type]
    return graph


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_cycles_end(rows: int) -> None:
    """A path passes no row twice, so a loop of r rows unrolls to depth r and no further."""
    graph = unroll([Loop(rows)], 1000, 1000)
    assert max(graph.depths) == rows
    assert len(graph) == 2 ** (rows + 1) - 2
    check(graph, Limits(1000, 1, rows))


@given(st.integers(0, 20), st.integers(1, 6), st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([None, 1]))
def test_bounds(budget: int, depth: int, floor: float, width: int | None) -> None:
    graph = unroll([Loop(9, 0.9)], budget, depth, floor, width)
    check(graph, Limits(budget, 1, depth))
    assert all(score >= floor for score in graph.scores)
    assert graph.scores == sorted(graph.scores, reverse=True)  # best first
    if width == 1:
        assert graph.tree().is_chain
    assert graph.num_merged == len(graph)


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(0, 24), st.integers(1, 8))
def test_self_similar_text(text: list[int], budget: int, depth: int) -> None:
    own = TextRows(Discounts())
    own.extend(text)
    graph = DraftGraph()
    Unroller(graph, [own], text[-8:], 0.001).grow([ROOT], budget, depth)
    check(graph, Limits(budget, 1, depth))
    tree = graph.tree()
    assert len({tuple(tree.path_tokens(node)) for node in range(len(tree))}) == len(tree)
    assert all(row == FIXED for row in tree.law_row)


def test_all_candidates_merge() -> None:
    """A frontier of nodes that all have edges; the budget is smaller than their first layer."""
    graph = DraftGraph()
    leaves = [graph.add(ROOT, token, 0.5) for token in (1, 2, 3)]
    Unroller(graph, [Loop()], [], 0.0).grow(leaves, 5, 4)
    assert len(graph) == 5
    assert graph.origins == [DRAFTED] * 3 + ["merge"] * 2
    assert set(graph.edges) <= set(leaves)


def test_subset_keeps_what_belongs_to_its_nodes() -> None:
    graph = DraftGraph()
    a, b = graph.add(ROOT, 1, 0.6), graph.add(ROOT, 2, 0.4)
    c = graph.add(b, 3, 0.3, origin="own")
    graph.rows |= {ROOT: Row([1, 2], [0.6, 0.4]), a: Row([], []), b: Row([3], [0.7])}
    graph.fed |= {a: 0, b: 1}
    kept = graph.subset([c, b])
    assert (kept.tokens, kept.parents, kept.origins) == ([2, 3], [ROOT, 0], [DRAFTED, "own"])
    assert (set(kept.rows), kept.fed, kept.num_merged) == ({ROOT, 0}, {0: 1}, 1)
    assert kept.path_tokens(1) == [2, 3]
    assert graph.path_tokens(c) == [2, 3]


def test_copies_say_where_they_were_drafted() -> None:
    graph = DraftGraph()
    a, b = graph.add(ROOT, 1, 0.5), graph.add(ROOT, 2, 0.3)
    c, d = graph.add(b, 1, 0.2), graph.add(ROOT, 9, 0.1)
    graph.rows |= {a: Row([2], [0.9]), b: Row([1], [0.9])}
    own = TextRows(Discounts())
    own.extend([7, 9, 8, 9, 6])
    Unroller(graph, [DraftRows(graph, [5], Discounts()), own], [5], 0.0).grow([c, d], 7, 3)
    copies = {(graph.parents[i], graph.tokens[i]): (graph.origins[i], graph.drafted_at[i]) for i in range(4, 7)}
    assert graph.drafted_at[:4] == [ROOT, ROOT, b, ROOT]
    assert copies == {(c, 2): ("merge", a), (d, 6): ("context", 4), (d, 8): ("context", 4)}
    kept = graph.subset([b, c, d, *range(4, 7)])  # without the node whose row was copied, and with other numbers
    assert kept.drafted_at == [ROOT, 0, ROOT, *(None if origin == "merge" else 4 for origin in graph.origins[4:])]


def test_laws_are_numbered_over_all_blocks() -> None:
    graph = DraftGraph()
    assert graph.tree().laws is None
    assert graph.add_laws(torch.full((2, 4), 0.25)) == 0
    assert graph.add_laws(torch.full((1, 4), 0.25)) == 2
    graph.add(ROOT, 1, 1.0, law=2)
    tree = graph.tree()
    assert tree.laws is not None
    assert tree.laws.shape == (3, 4)


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 3), st.integers(1, 6))
def test_copies_at_positive_temperature(seed: int, budget: int, depth: int, reach: int) -> None:
    """At nodes that were not evaluated; the drafted part stays as it is, node for node, and every copy is FIXED."""
    limits = Limits(budget, depth, reach)
    graph, _ = grow_levels(Table(seed, order=1), Drawn(lambda d, a: 0.3), limits, Calibration())
    before = (list(graph.tokens), list(graph.parents), list(graph.law_row))
    size = len(graph)
    leaves = [node for node in range(size) if node not in graph.rows and graph.depth(node) < reach]
    Unroller(graph, [DraftRows(graph, [1], Discounts()), Loop()], [1], 0.02).grow(leaves, budget, reach)
    check(graph, limits)
    assert (graph.tokens[:size], graph.parents[:size], graph.law_row[:size]) == before
    for node in range(size, len(graph)):
        assert graph.law_row[node] == FIXED
        assert graph.parents[node] not in graph.rows
    if size == budget:
        assert len(graph) == size


@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
def test_the_best_continuation_alone_is_the_first_of_many(kind: torch.dtype) -> None:
    q = torch.rand(1, 30, generator=torch.Generator().manual_seed(2), dtype=kind)
    alone, many = DraftGraph(), DraftGraph()
    row = alone.remember_best(ROOT, q, lambda probs: [0.5 * prob for prob in probs])
    (best,) = many.remember([ROOT], q, 4)
    assert (row.tokens, row.probs) == (best.tokens[:1], [0.5 * best.probs[0]])
    assert alone.rows == {ROOT: row}
    assert alone.promised[ROOT] == many.promised[ROOT][:1]
