"""The level policy: laws that are what was drawn from, and shapes that never look at a drawn token."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draft_tables import VOCAB, Drawn, Table, Truncated, check, quantiles
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.isotonic import pooled
from draftgraph.draft.structures.calibrate import Calibration
from draftgraph.draft.structures.levels import grow_levels
from draftgraph.draft.terms import Limits
from draftgraph.types import FIXED

SEEDS = st.integers(0, 10**6)
LIMITS = st.builds(
    Limits, st.integers(1, 24), st.integers(1, 5), st.integers(1, 6), st.sampled_from([0.0, 0.02, 0.1]),
    st.sampled_from([(), (0.3,) * 5]), st.booleans(),
)  # fmt: skip


def grow(table: Table, drawn: Drawn, limits: Limits) -> DraftGraph:
    return grow_levels(table, drawn, limits, Calibration())[0]


@given(SEEDS, LIMITS, st.sampled_from([0.5, 2.0, 6.0]))
def test_laws(seed: int, limits: Limits, sharpness: float) -> None:
    table, drawn = Table(seed, sharpness=sharpness), Drawn(quantiles(seed))
    graph = grow(table, drawn, limits)
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


@given(SEEDS, LIMITS, st.integers(1, 4), st.integers(1, 5))
def test_shapes_are_fixed_before_they_are_drawn(seed: int, limits: Limits, depth: int, salt: int) -> None:
    """Other tokens drawn at depth d leave every slot and law of the levels up to d as it was."""
    graphs = [grow(Table(seed), Drawn(quantiles(seed, depth, s)), limits).tree() for s in (0, salt)]
    levels = []
    for tree in graphs:
        nodes = [node for node in range(len(tree)) if tree.depths[node] <= depth]
        laws = [None if tree.law_row[node] == FIXED else tree.laws[tree.law_row[node]].tolist() for node in nodes]
        tokens = [tree.tokens[node] for node in nodes if tree.law_row[node] == FIXED or tree.depths[node] < depth]
        levels.append(([tree.parents[node] for node in nodes], laws, tokens))
    assert levels[0] == levels[1]


@given(SEEDS, LIMITS)
def test_shapes_look_across_branches_and_say_so(seed: int, limits: Limits) -> None:
    tree = grow(Table(seed), Drawn(quantiles(seed)), limits).tree()
    assert tree.across
    assert tree.structure == ("chain" if tree.is_chain else "levels")


@given(SEEDS, LIMITS)
def test_scores_of_a_level_do_not_look_at_its_tokens(seed: int, limits: Limits) -> None:
    first, second = (grow(Table(seed), Drawn(quantiles(seed, 1, salt)), limits) for salt in (0, 1))
    level = [node for node in range(len(first)) if first.depth(node) == 1]
    assert [first.score(node) for node in level] == [second.score(node) for node in level]


@given(SEEDS, LIMITS)
def test_passes_are_counted(seed: int, limits: Limits) -> None:
    table = Table(seed)
    graph, passes = grow_levels(table, Drawn(quantiles(seed)), limits, Calibration())
    assert passes == len(table.passes) <= min(limits.depth, limits.reach)
    assert max(graph.depths, default=0) <= passes


@pytest.mark.parametrize("zeros", [2, 3, 4])
def test_truncated_laws(zeros: int) -> None:
    """Top-k can leave fewer tokens than slots: no token without mass, no law that is 0/0."""
    for seed in range(10):
        table = Truncated(seed, zeros=zeros)
        tree = grow(table, Drawn(quantiles(seed)), Limits(30, 3, 3)).tree()
        assert all(float(table.row(tree.path_tokens(node)[:-1])[tree.tokens[node]]) > 0 for node in range(len(tree)))
        assert tree.laws is None or bool(torch.isfinite(tree.laws).all())


@given(st.lists(st.floats(-1.0, 1.0), max_size=8))
def test_pooled_gains_do_not_increase(gains: list[float]) -> None:
    even = pooled(gains)
    assert len(even) == len(gains)
    assert sum(even) == pytest.approx(sum(gains))
    assert all(a >= b - 1e-9 for a, b in pairwise(even))
    for count in range(len(gains) + 1):
        assert sum(even[:count]) >= sum(gains[:count]) - 1e-9
