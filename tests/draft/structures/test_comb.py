"""Combs: one main path, and leaves where the drafter is unsure."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from draft_tables import Drawn, Table, check, quantiles
from draftgraph.draft.structures.comb import LEAVES, grow_comb
from draftgraph.draft.terms import Limits
from draftgraph.types import ROOT

LIMITS = st.builds(Limits, st.integers(1, 24), st.integers(1, 5), st.integers(1, 6))


@given(st.integers(0, 10**6), LIMITS, st.sampled_from([0.5, 2.0, 6.0]), st.booleans())
def test_combs(seed: int, limits: Limits, sharpness: float, sampled: bool) -> None:
    table, drawn = Table(seed, vocab=12, sharpness=sharpness), Drawn(quantiles(seed))
    graph, passes = grow_comb(table, drawn if sampled else None, limits)
    check(graph, limits)
    tree = graph.tree()
    assert passes == min(limits.depth, limits.reach, limits.budget) == max(tree.depths)
    assert not tree.across
    node = ROOT
    for _ in range(passes):
        below = tree.children[node + 1]
        q = table.row(tree.path_tokens(node))
        most = next(count for bound, count in LEAVES if float(q.max()) <= bound)
        assert 1 <= len(below) <= 1 + most
        assert all(not tree.children[leaf + 1] for leaf in below[1:])
        best = q.argsort(descending=True).tolist()
        if sampled:
            assert torch.equal(tree.laws[tree.law_row[below[0]]], q)  # type: ignore[index]
            assert [tree.tokens[leaf] for leaf in below[1:]] == best[: len(below) - 1]
        else:
            assert [tree.tokens[child] for child in below] == best[: len(below)]
        node = below[0]


def test_combs_have_more_leaves_where_the_drafter_is_unsure() -> None:
    sizes = [len(grow_comb(Table(1, vocab=12, sharpness=s), None, Limits(50, 4, 4))[0]) for s in (0.1, 2.0, 4.0, 9.0)]
    assert all(a > b for a, b in pairwise(sizes))


def test_combs_end_where_a_pass_does_not_pay() -> None:
    graph, passes = grow_comb(Table(0, sharpness=0.1), None, Limits(50, 8, 8, price_passes=(0.1,) * 8))
    assert passes < 8
    assert max(graph.depths) == passes
