"""The level policy: laws that are what was drawn from, and shapes that never look at a drawn token."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tables import VOCAB, Drawn, Table, check

from draftgraph.draft.base import Limits
from draftgraph.draft.calibrate import Calibration
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.levels import grow_branching, grow_levels, pooled
from draftgraph.types import FIXED, ROOT

SEEDS = st.integers(0, 10**6)
LIMITS = st.builds(
    Limits, st.integers(1, 24), st.integers(1, 5), st.integers(1, 6), st.sampled_from([0.0, 0.02, 0.1]),
    st.sampled_from([0.0, 0.3]), st.booleans(),
)  # fmt: skip
BRANCHING = st.lists(st.integers(1, 3), min_size=1, max_size=4)


def quantiles(seed: int, changed: int | None = None, salt: int = 0) -> Any:
    """Uniform numbers by (depth, address); from depth `changed` on they are others."""

    def quantile(depth: int, address: int) -> float:
        key = (seed, depth, address, salt if changed is not None and depth >= changed else 0)
        return float(torch.rand(1, generator=torch.Generator().manual_seed(hash(key) % 2**40)))

    return quantile


def grow(table: Table, drawn: Drawn, limits: Limits, branching: list[int] | None) -> DraftGraph:
    if branching is None:
        return grow_levels(table, drawn, limits, Calibration())[0]
    return grow_branching(table, drawn, limits, branching)[0]


@given(SEEDS, LIMITS, st.none() | BRANCHING, st.sampled_from([0.5, 2.0, 6.0]))
def test_laws(seed: int, limits: Limits, branching: list[int] | None, sharpness: float) -> None:
    table, drawn = Table(seed, sharpness=sharpness), Drawn(quantiles(seed))
    graph = grow(table, drawn, limits, branching)
    check(graph, limits)
    tree = graph.tree()
    sampled = [node for node, row in enumerate(tree.law_row) if row != FIXED]
    assert sorted(tree.law_row[node] for node in sampled) == list(range(len(sampled)))  # one law each
    if sampled:
        assert tree.laws is not None
        assert torch.equal(tree.laws, torch.cat(drawn.laws))  # the very tensor
        torch.testing.assert_close(tree.laws.sum(dim=1), torch.ones(len(sampled), dtype=tree.laws.dtype))
    assert sorted(drawn.tokens) == sorted(tree.tokens[node] for node in sampled)
    for row, children in enumerate(tree.children):
        fixed = [tree.tokens[node] for node in children if tree.law_row[node] == FIXED]
        draws = [node for node in children if tree.law_row[node] != FIXED]
        q = table.row(tree.path_tokens(row - 1))
        assert len(draws) <= 1
        assert fixed == q.argsort(descending=True)[: len(fixed)].tolist()
        for node in draws:
            law = tree.laws[tree.law_row[node]]  # type: ignore[index]
            assert float(law[fixed].sum()) == 0.0
            expected = q.index_fill(0, torch.tensor(fixed, dtype=torch.long), 0.0)
            torch.testing.assert_close(law, expected / expected.sum())
            assert float(law[tree.tokens[node]]) > 0.0
        if children and len(fixed) < VOCAB:
            assert len(draws) == 1 or float(q.sum() - q[fixed].sum()) < 1e-5


@given(SEEDS, LIMITS, st.none() | BRANCHING, st.integers(1, 4), st.integers(1, 5))
def test_shapes_are_fixed_before_they_are_drawn(
    seed: int, limits: Limits, branching: list[int] | None, depth: int, salt: int
) -> None:
    """Other tokens drawn at depth d leave every slot and law of the levels up to d as it was."""
    graphs = [grow(Table(seed), Drawn(quantiles(seed, depth, s)), limits, branching).tree() for s in (0, salt)]
    levels = []
    for tree in graphs:
        nodes = [node for node in range(len(tree)) if tree.depths[node] <= depth]
        laws = [None if tree.law_row[node] == FIXED else tree.laws[tree.law_row[node]].tolist() for node in nodes]
        tokens = [tree.tokens[node] for node in nodes if tree.law_row[node] == FIXED or tree.depths[node] < depth]
        levels.append(([tree.parents[node] for node in nodes], laws, tokens))
    assert levels[0] == levels[1]


@given(SEEDS, LIMITS)
def test_scores_of_a_level_do_not_look_at_its_tokens(seed: int, limits: Limits) -> None:
    first, second = (grow(Table(seed), Drawn(quantiles(seed, 1, salt)), limits, None) for salt in (0, 1))
    level = [node for node in range(len(first)) if first.depth(node) == 1]
    assert [first.score(node) for node in level] == [second.score(node) for node in level]


@given(SEEDS, LIMITS)
def test_passes_are_counted(seed: int, limits: Limits) -> None:
    table = Table(seed)
    graph, passes = grow_levels(table, Drawn(quantiles(seed)), limits, Calibration())
    assert passes == len(table.passes) <= min(limits.depth, limits.reach)
    assert max(graph.depths, default=0) <= passes


@given(SEEDS, BRANCHING)
def test_branching_is_exact_where_the_budget_allows(seed: int, branching: list[int]) -> None:
    for draw in (Drawn(quantiles(seed)), None):
        graph, passes = grow_branching(Table(seed, sharpness=0.5), draw, Limits(500, 9, 9), branching)
        assert passes == len(branching)
        for node in (ROOT, *range(len(graph))):
            wanted = branching[graph.depth(node)] if graph.depth(node) < len(branching) else 0
            assert graph.parents.count(node) == wanted
    assert all(row == FIXED for row in graph.law_row)


@pytest.mark.parametrize("zeros", [2, 3, 4])
def test_truncated_laws(zeros: int) -> None:
    """Top-k can leave fewer tokens than slots: no token without mass, no law that is 0/0."""

    class Truncated(Table):
        def row(self, prefix: Any) -> torch.Tensor:
            row = super().row(prefix)
            row[row.argsort()[:zeros]] = 0.0
            return row / row.sum()

    for branching in ([4, 4], None):
        for seed in range(10):
            graph = grow(table := Truncated(seed), Drawn(quantiles(seed)), Limits(30, 3, 3), branching)
            tree = graph.tree()
            assert all(
                float(table.row(tree.path_tokens(node)[:-1])[tree.tokens[node]]) > 0 for node in range(len(tree))
            )
            assert tree.laws is None or bool(torch.isfinite(tree.laws).all())


@given(st.lists(st.floats(-1.0, 1.0), max_size=8))
def test_pooled_gains_do_not_increase(gains: list[float]) -> None:
    even = pooled(gains)
    assert len(even) == len(gains)
    assert sum(even) == pytest.approx(sum(gains))
    assert all(a >= b - 1e-9 for a, b in pairwise(even))
    for count in range(len(gains) + 1):
        assert sum(even[:count]) >= sum(gains[:count]) - 1e-9
