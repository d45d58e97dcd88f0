"""What target and law say of every drafted token."""

from __future__ import annotations

import pytest
import torch

from draftgraph.types import FIXED, TokenTree
from draftgraph.verification.probabilities import draft_probabilities, target_probabilities


def test_every_node_tells_its_probability_under_target_and_law():
    laws = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    p = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [1.0, 0.0, 0.0]])
    tree = TokenTree([0, 1, 2], [-1, -1, 0], [FIXED, 0, 1], laws)
    assert target_probabilities(tree, p) == pytest.approx([0.6, 0.3, 0.6])
    assert draft_probabilities(tree) == [None, pytest.approx(0.3), pytest.approx(0.7)]
    assert target_probabilities(TokenTree([], [], [], None), p[:1]) == []
