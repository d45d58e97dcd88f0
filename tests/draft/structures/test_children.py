"""Kinds of children: the tokens below a node have the law that the kind promises, and state it."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draft_tables import Drawn, quantiles
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.children import KINDS, Level
from draftgraph.draft.structures.tree import Tree
from draftgraph.lab.prove.law import Draw, enumerate_draws
from draftgraph.types import FIXED, ROOT, TokenTree

ROWS = {
    "random": [0.4, 0.25, 0.2, 0.1, 0.05],
    "one above 1/2": [0.1, 0.7, 0.1, 0.05, 0.05],
    "two tokens": [0.0, 0.3, 0.0, 0.7, 0.0],
    "one token": [0.0, 0.0, 1.0, 0.0, 0.0],
    "even": [0.2] * 5,
    "ties": [0.25, 0.25, 0.25, 0.125, 0.125],
}


def below_root(kind: str, q: torch.Tensor, k: int, draw: Draw) -> TokenTree:
    graph = DraftGraph()
    KINDS[kind](Level(graph, [ROOT], q[None], lambda laws, depth, addresses: [draw(law) for law in laws], k), k)
    return graph.tree()


def drafts(kind: str, row: str, k: int) -> list[tuple[float, TokenTree]]:
    """Every draft below one node (of some thousands, the first ones), with its probability."""
    q = torch.tensor(ROWS[row], dtype=torch.float64)
    return list(islice(enumerate_draws(lambda draw: below_root(kind, q, k, draw)), 800))


def inclusion(kind: str, row: str, k: int) -> torch.Tensor:
    """f64[V]: how often each token is expected among the children."""
    mass = torch.zeros(5, dtype=torch.float64)
    for probability, tree in drafts(kind, row, k):
        for token in tree.tokens:
            mass[token] += probability
    return mass


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_slots(kind: str, k: int, row: str) -> None:
    """How many there are, and which are FIXED, does not depend on the draws; SAMPLED ones come from their laws."""
    q = torch.tensor(ROWS[row], dtype=torch.float64)
    shapes = set()
    for probability, tree in drafts(kind, row, k):
        assert probability > 0
        assert len(tree) <= k
        assert all(q[token] > 0 for token in tree.tokens)
        shapes.add(tuple(token if at == FIXED else -1 for token, at in zip(tree.tokens, tree.law_row, strict=True)))
        for token, at in zip(tree.tokens, tree.law_row, strict=True):
            assert at == FIXED or float(tree.laws[at, token]) > 0  # type: ignore[index]
        if tree.laws is not None:
            torch.testing.assert_close(tree.laws.sum(dim=1), torch.ones(len(tree.laws), dtype=torch.float64))
    assert len(shapes) == 1
    assert len(next(iter(shapes))) == expected_count(kind, k, q)


def expected_count(kind: str, k: int, q: torch.Tensor) -> int:
    support = int((q > 0).sum())
    return {"with_replacement": k, "spine": 1 + min(k - 1, support)}.get(kind, min(k, support))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fixed"])
def test_one_child_is_a_draw_from_q(kind: str, row: str) -> None:
    torch.testing.assert_close(inclusion(kind, row, 1), torch.tensor(ROWS[row], dtype=torch.float64))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_a_systematic_draw_includes_tokens_in_proportion(k: int, row: str) -> None:
    """min(1, c q) with the c that makes k of them, found here by bisection; no token twice; certain ones are FIXED."""
    q = torch.tensor(ROWS[row], dtype=torch.float64)
    k = min(k, int((q > 0).sum()))
    low, high = 0.0, 1e6
    for _ in range(200):
        c = 0.5 * (low + high)
        low, high = (c, high) if float((c * q).clamp(max=1.0).sum()) < k else (low, c)
    expected = (high * q).clamp(max=1.0)
    torch.testing.assert_close(inclusion("systematic", row, k), expected)
    for _, tree in drafts("systematic", row, k):
        assert len(set(tree.tokens)) == len(tree.tokens) == k
        for token, at in zip(tree.tokens, tree.law_row, strict=True):
            assert (at == FIXED) == (float(expected[token]) > 1 - 1e-9)


@pytest.mark.parametrize("row", ROWS)
def test_without_replacement_is_successive_sampling(row: str) -> None:
    q = torch.tensor(ROWS[row], dtype=torch.float64)
    for probability, tree in drafts("without_replacement", row, 3):
        expected, left = 1.0, 1.0
        for token in tree.tokens:
            expected *= float(q[token]) / left
            left -= float(q[token])
        assert probability == pytest.approx(expected)
        assert len(set(tree.tokens)) == len(tree)


def test_with_replacement_repeats_and_shares_its_law() -> None:
    pairs: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for probability, tree in drafts("with_replacement", "random", 2):
        assert list(tree.law_row) == [0, 0]
        pairs[tuple(tree.tokens)] += probability
    q = ROWS["random"]
    assert pairs == pytest.approx({(a, b): q[a] * q[b] for a in range(5) for b in range(5)})


def test_a_spine_keeps_the_best_tokens_that_repeat_it() -> None:
    repeated = [tree for _, tree in drafts("spine", "random", 3) if tree.tokens[0] == 0]
    assert [tree.tokens for tree in repeated] == [[0, 0, 1]]
    assert [tree.law_row for tree in repeated] == [[0, FIXED, FIXED]]


@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 5),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_level_is_its_nodes_one_by_one(seed: int, kind: str, k: int, dtype: torch.dtype) -> None:
    """Nodes of a level do not meet, and the stored laws are the very tensors that were drawn from."""
    generator = torch.Generator().manual_seed(seed)
    q = (3 * torch.randn(3, 6, generator=generator, dtype=dtype)).softmax(dim=1)
    whole, drawn = DraftGraph(), Drawn(quantiles(seed))
    parents = [whole.add(ROOT, token, 0.3) for token in range(3)]
    level = Level(whole, parents, q, drawn, k)
    KINDS[kind](level, k)
    tree = whole.tree()
    if tree.laws is not None:
        assert tree.laws.dtype == dtype
        for stored, (laws, _) in zip(whole.laws, [(laws, None) for laws in drawn.laws], strict=False):
            assert stored is laws
    for i, parent in enumerate(parents):
        alone = DraftGraph()
        alone.add(ROOT, i, 0.3)
        draw = Drawn(lambda depth, address, i=i: quantiles(seed)(depth, 3 * address + i))  # type: ignore[misc]
        KINDS[kind](Level(alone, [0], q[i : i + 1], draw, k), k)
        below = [node for node in range(len(whole)) if whole.parents[node] == parent]
        assert below == level.children[i]
        assert [whole.tokens[node] for node in below] == alone.tokens[1:]
        assert [whole.scores[node] for node in below] == pytest.approx(alone.scores[1:])
        assert sum(whole.scores[node] for node in below) <= 0.3 * (1 + 1e-6)


def test_rules_are_asked_about_every_kind() -> None:
    """The example of a kind has the kinds of slots that the kind drafts."""
    for kind in KINDS:
        drafted = {slot for _, tree in drafts(kind, "one above 1/2", 3) for slot in tree.kinds}
        assert Tree((3, 2), kind).example(sampled=True).kinds == drafted
        assert Tree((3, 2), kind).example(sampled=False).kinds == {"fixed"}
