"""Growth to a given shape: whole where the budget allows, cut without looking across branches where it does not."""

from __future__ import annotations

from functools import partial
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draft_tables import Drawn, Table, Truncated, check, quantiles
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.branching import expanded, grow_branching
from draftgraph.draft.structures.children import KINDS
from draftgraph.draft.terms import Limits
from draftgraph.lab.prove.law import Draw, enumerate_draws
from draftgraph.types import FIXED, ROOT, TokenTree

SEEDS = st.integers(0, 10**6)
LIMITS = st.builds(Limits, st.integers(1, 24), st.integers(1, 5), st.integers(1, 6))
BRANCHING = st.lists(st.integers(1, 3), min_size=1, max_size=4)
CHILDREN = st.sampled_from(sorted(KINDS))


def grow(table: Table, drawn: Drawn | None, limits: Limits, branching: list[int], children: str) -> DraftGraph:
    return grow_branching(table, drawn, limits, branching, children)[0]


@given(SEEDS, BRANCHING, CHILDREN)
def test_branching_is_exact_where_the_budget_allows(seed: int, branching: list[int], children: str) -> None:
    for draw in (Drawn(quantiles(seed)), None):
        graph, passes = grow_branching(Table(seed, sharpness=0.5), draw, Limits(500, 9, 9), branching, children)
        assert passes == len(branching)
        for node in (ROOT, *range(len(graph))):
            wanted = branching[graph.depth(node)] if graph.depth(node) < len(branching) else 0
            assert graph.parents.count(node) == wanted
    assert all(row == FIXED for row in graph.law_row)


@given(SEEDS, LIMITS, BRANCHING, CHILDREN)
def test_limits_and_laws(seed: int, limits: Limits, branching: list[int], children: str) -> None:
    drawn = Drawn(quantiles(seed))
    graph = grow(Table(seed), drawn, limits, branching, children)
    check(graph, limits)
    tree = graph.tree()
    sampled = [node for node in range(len(tree)) if tree.law_row[node] != FIXED]
    assert sorted(tree.tokens[node] for node in sampled) == sorted(drawn.tokens)
    if sampled:
        assert {laws.data_ptr() for laws in graph.laws} == {laws.data_ptr() for laws in drawn.laws}
    assert not tree.across


@given(SEEDS, LIMITS, BRANCHING, CHILDREN, st.integers(1, 4), st.integers(1, 5))
def test_shapes_are_fixed_before_they_are_drawn(
    seed: int, limits: Limits, branching: list[int], children: str, depth: int, salt: int
) -> None:
    """Other tokens drawn at depth d leave every slot of the levels up to d where it was."""
    trees = [grow(Table(seed), Drawn(quantiles(seed, depth, s)), limits, branching, children).tree() for s in (0, salt)]
    levels = []
    for tree in trees:
        nodes = [node for node in range(len(tree)) if tree.depths[node] <= depth]
        tokens = [tree.tokens[node] for node in nodes if tree.law_row[node] == FIXED or tree.depths[node] < depth]
        levels.append(([tree.parents[node] for node in nodes], tokens))
    assert levels[0] == levels[1]


class Zeros(Table):
    """After some prefixes only one or two tokens are possible."""

    def row(self, prefix: object) -> torch.Tensor:
        row = super().row(prefix)  # type: ignore[arg-type]
        row[row.argsort()[: int(100 * float(row[0])) % self.vocab]] = 0.0
        return row / row.sum()


@pytest.mark.parametrize("children", KINDS)
def test_a_branch_does_not_look_at_another(children: str) -> None:
    """How many slots a node has is a function of its path, for every budget, though some rows leave slots empty."""
    for seed in range(6):
        for budget in (7, 8, 9):  # 2 + 4 nodes, and a last level that is cut
            table = Zeros(seed, vocab=3, sharpness=0.7)
            counts: dict[object, int] = {}
            for _, tree in islice(enumerate_draws(partial(drawn, table, budget, (2, 2, 1), children)), 400):
                for node in range(len(tree)):
                    path = tree.path(node)
                    ranks = [tree.children[tree.parents[n] + 1].index(n) for n in path]
                    here = len(tree.children[node + 1])
                    assert counts.setdefault((*ranks, *tree.path_tokens(node)), here) == here


def drawn(table: Table, budget: int, branching: tuple[int, ...], children: str, draw: Draw) -> TokenTree:
    table.passes.clear()
    by_row = lambda laws, depth, addresses: [draw(law) for law in laws]  # noqa: E731
    return grow_branching(table, by_row, Limits(budget, 9, 9), branching, children)[0].tree()


@given(st.integers(0, 60), st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_what_is_expanded_fits_the_budget(budget: int, branching: list[int]) -> None:
    counts = expanded(branching, budget)
    assert sum(count * k for count, k in zip(counts, branching, strict=True)) <= budget
    places = [1, *(count * k for count, k in zip(counts, branching, strict=True))]
    assert all(count <= place for count, place in zip(counts, places, strict=False))


@pytest.mark.parametrize("zeros", [2, 3, 4])
@pytest.mark.parametrize("children", KINDS)
def test_truncated_laws(children: str, zeros: int) -> None:
    """Top-k can leave fewer tokens than slots: no token without mass, no law that is 0/0."""
    for seed in range(6):
        table = Truncated(seed, zeros=zeros)
        tree = grow(table, Drawn(quantiles(seed)), Limits(30, 3, 3), [4, 4], children).tree()
        assert all(float(table.row(tree.path_tokens(node)[:-1])[tree.tokens[node]]) > 0 for node in range(len(tree)))
        assert tree.laws is None or bool(torch.isfinite(tree.laws).all())
