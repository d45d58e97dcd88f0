"""The nouns: a draft states a law for every slot, and its tree is consistent."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.errors import DraftError, DraftgraphError
from draftgraph.types import FIXED, ROOT, Outcome, TokenTree, Verdict

#        root
#        /  \
#       0    1
#      / \    \
#     2   3    4
TREE = TokenTree([7, 8, 9, 7, 5], [ROOT, ROOT, 0, 0, 1], [FIXED] * 5)


def test_depths_children_and_paths():
    assert len(TREE) == 5
    assert TREE.depths == [1, 1, 2, 2, 2]
    assert TREE.children == [[0, 1], [2, 3], [4], [], [], []]
    assert TREE.path(3) == [0, 3]
    assert TREE.path_tokens(3) == [7, 7]
    assert TREE.path(ROOT) == []


def test_chains():
    assert TokenTree([], [], []).is_chain
    assert TokenTree([1, 2], [ROOT, 0], [FIXED, FIXED]).is_chain
    assert not TREE.is_chain
    assert not TokenTree([1, 2], [ROOT, ROOT], [FIXED, FIXED]).is_chain


@given(st.integers(0, 12), st.randoms(use_true_random=False))
def test_every_tree_is_consistent(n, random):
    parents = [random.randint(ROOT, i - 1) for i in range(n)]
    tree = TokenTree([random.randint(0, 3) for _ in range(n)], parents, [FIXED] * n)
    assert sorted(child for row in tree.children for child in row) == list(range(n))
    for node in range(n):
        path = tree.path(node)
        assert len(path) == tree.depths[node]
        assert path[-1] == node
        assert tree.path_tokens(node) == [tree.tokens[i] for i in path]
        assert node in tree.children[parents[node] + 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], [], [FIXED]), "needs 1 parents"),
        (([1], [ROOT], []), "Give every slot a law"),
        (([1, 2], [ROOT, 1], [FIXED, FIXED]), "node 1 has parent 1"),
        (([1], [-2], [FIXED]), "node 0 has parent -2"),
        (([1], [ROOT], [0]), "the draft has 0 law rows"),
        (([1], [ROOT], [2], torch.ones(2, 3) / 3), "the draft has 2 law rows"),
        (([1], [ROOT], [-2], torch.ones(2, 3) / 3), "law row -2"),
    ],
)
def test_a_malformed_draft_cannot_be_built(arguments, message):
    with pytest.raises(DraftError, match=message) as caught:
        TokenTree(*arguments)
    assert isinstance(caught.value, DraftgraphError)


def test_nouns_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TREE.tokens = []
    with pytest.raises(dataclasses.FrozenInstanceError):
        Verdict((), 1).token = 2


def test_the_path_passes_a_node_if_it_stops_there_or_below():
    tree = TokenTree([0, 1, 2], [-1, -1, 0], [FIXED, FIXED, FIXED], None)
    outcome = Outcome([0.1, 0.2, 0.3, 0.4], lambda row: torch.ones(3))
    assert outcome.masses(tree) == pytest.approx([0.6, 0.3, 0.4])
