"""I.i.d. paths: of one length, drawn alike, as many as the budget allows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draft_tables import Drawn, Table, quantiles
from draftgraph.draft.structures.base import Growth
from draftgraph.draft.structures.paths import Paths
from draftgraph.draft.terms import Limits
from draftgraph.errors import OptionError
from ids import told


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 8))
def test_paths_have_one_length_and_equal_laws_after_equal_prefixes(seed: int, budget: int, depth: int) -> None:
    table = Table(seed, vocab=2, sharpness=1.0)
    tree = Paths().grow(Growth(Limits(budget, depth, 8), table, Drawn(quantiles(seed)))).tree()
    assert tree.structure in ("chain", "paths")
    leaves = [node for node in range(len(tree)) if not tree.children[node + 1]]
    assert len({tree.depths[leaf] for leaf in leaves}) == 1
    assert budget - len(tree) < tree.depths[leaves[0]] or len(tree) == budget
    assert tree.laws is not None
    rows = {}
    for node, row in enumerate(tree.law_row):
        law = rows.setdefault(tuple(tree.path_tokens(node)[:-1]), tree.laws[row])
        assert torch.equal(law, tree.laws[row])
    assert sum(map(len, table.passes)) == len(rows)  # a prefix is evaluated once, however many paths go through it


@pytest.mark.parametrize(
    ("budget", "paths", "shape"),
    [
        (16, Paths(), (3, 1, 1, 1, 1)),
        (3, Paths(), (1, 1, 1)),
        (9, Paths(4, 3), (4, 1)),
        (3, Paths(4, 3), (3,)),
        (99, Paths(2, 2), (2, 1)),
        (16, Paths(2), (2, 1, 1, 1, 1)),
        (9, Paths(4), (4, 1)),
    ],
    ids=told,
)
def test_paths_are_as_many_and_as_long_as_the_budget_allows(budget: int, paths: Paths, shape: tuple[int, ...]) -> None:
    depths = paths.grow(Growth(Limits(budget, 5, 9), Table(0), Drawn(quantiles(0)))).tree().depths
    assert [depths.count(depth) for depth in range(1, 1 + max(depths))] == [shape[0]] * len(shape)


def test_a_number_of_paths_is_kept_under_every_budget() -> None:
    assert Paths(5).nodes_per_level == 5
    assert Paths(5).limits(20, None, 99).depth == 4
    assert Paths().limits(20, None, 99).depth == 7
    assert Paths(3, 4).whole(99) == Limits(12, 4, 99)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "3", 10**9])
def test_numbers_of_paths_that_are_none(size: object) -> None:
    for sizes in ({"count": size}, {"count": 2, "length": size}):
        with pytest.raises(OptionError, match="write an integer from 1"):
            Paths(**sizes)
    with pytest.raises(OptionError, match=r"write dg.structures.Paths\(3, 4\), or num_speculative_tokens=4"):
        Paths(length=4)
