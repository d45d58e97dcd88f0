"""Chains: one path of draws, or of best tokens, that ends where the next pass or node does not pay."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.base import Growth
from draftgraph.draft.structures.calibrate import Calibration
from draftgraph.draft.structures.chain import Chain, grow_chain
from draftgraph.draft.structures.graph import Graph
from draftgraph.draft.structures.tree import Tree
from draftgraph.draft.terms import Limits
from draftgraph.types import FIXED, ROOT

ROW = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)


class Reading:
    """Rows that depend on the depth alone; counts passes."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, graph: DraftGraph, nodes: Sequence[int]) -> torch.Tensor:
        self.passes += 1
        graph.fed.update((node, node) for node in nodes if node != ROOT)
        return torch.stack([ROW.roll(graph.depth(node)) for node in nodes])


def last(laws: torch.Tensor, depth: int, addresses: Sequence[int]) -> list[int]:
    return [2] * len(laws)


def test_without_draws_it_is_the_best_token_of_every_row():
    reading = Reading()
    graph = grow_chain(Growth(Limits(4, 4, 9), reading), 9)
    assert (graph.tokens, graph.parents, graph.law_row) == ([1, 2, 0, 1], [-1, 0, 1, 2], [FIXED] * 4)
    assert graph.scores == pytest.approx([0.6**depth for depth in range(1, 5)])
    assert reading.passes == 4


def test_a_draw_is_kept_with_the_row_that_it_came_from():
    graph = grow_chain(Growth(Limits(3, 3, 9), Reading(), last), 9)
    tree = graph.tree()
    assert (tree.tokens, tree.law_row) == ([2, 2, 2], [0, 1, 2])
    assert torch.equal(tree.laws, torch.stack([ROW.roll(depth) for depth in range(3)]))
    calibration = Calibration()
    kept = calibration.kept(0.6, 1.0)
    assert graph.scores[:2] == pytest.approx([kept, kept * calibration.kept(0.6, 1.0 / kept)])
    assert tree.structure == "chain"


@pytest.mark.parametrize("draw", [None, last])
@pytest.mark.parametrize(
    ("limits", "length", "nodes"),
    [
        (Limits(5, 5, 2), 9, 2),
        (Limits(3, 5, 9), 9, 3),
        (Limits(5, 4, 9), 9, 4),
        (Limits(5, 5, 9), 1, 1),
        (Limits(5, 5, 9, price_passes=(9.0,)), 9, 0),
        (Limits(5, 5, 9, price_passes=(0.0, 0.01, 0.9)), 9, 2),
        (Limits(5, 5, 9, floor=0.99), 9, 0),
    ],
)
def test_it_ends_at_every_limit(draw, limits: Limits, length: int, nodes: int):
    reading = Reading()
    assert len(grow_chain(Growth(limits, reading, draw), length)) == nodes
    assert reading.passes == max(nodes, int(limits.floor > 0.0)), "nothing is read that is not drafted"


def test_where_it_ends_does_not_look_at_what_is_drawn():
    limits = Limits(5, 5, 9, floor=0.3, price_passes=(0.0, 0.5, 0.5, 0.5))
    lengths = {
        len(grow_chain(Growth(limits, Reading(), lambda laws, depth, addresses, token=token: [token]), 9))
        for token in range(3)
    }
    assert len(lengths) == 1


def test_rows_that_are_known_take_no_pass():
    growth = Growth(Limits(5, 1, 9), Reading(), known=lambda graph, node: node != ROOT)
    assert len(grow_chain(growth, 9)) == 5
    assert len(grow_chain(Growth(Limits(5, 1, 9), Reading()), 9)) == 1


def test_a_draft_that_nobody_expects_to_be_reached_is_drafted_all_the_same_where_it_was_asked_for():
    calibration = Calibration()
    calibration.beta = [0.0] * 3
    assert len(grow_chain(Growth(Limits(3, 3, 9), Reading(), last, calibration), 9)) == 3


@pytest.mark.parametrize("structure", [Graph(), Tree(), Chain()])
@pytest.mark.parametrize("draw", [None, last])
def test_structures_that_narrow_draft_one_path_where_that_is_asked_for(structure, draw):
    growth = Growth(Limits(12, 4, 9, spread=False, narrow=True), Reading(), draw, sources=lambda graph: [])
    assert structure.narrows
    assert structure.grow(growth).tree().is_chain
    wide = structure.grow(Growth(Limits(12, 4, 9), Reading(), draw))
    assert wide.tree().is_chain == isinstance(structure, Chain)
    assert not Tree((2, 1)).narrows
