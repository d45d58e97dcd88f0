"""Growth to a shape that is given beforehand: so many children per depth, or one main path with side leaves.

What hangs below a node looks at the tokens of its own path only, so that rules which need branches that were drawn alike can
use these drafts. Special cases: (1, 1, 1) is a chain; (K, 1, 1) with children="with_replacement" is K i.i.d.
paths; (1, 1, 3, 1) branches late, where a path has become uncertain (delayed tree expansion, arXiv 2602.16994).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from draftgraph.draft.base import Draw, Evaluate, Limits
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.children import KINDS, Level, fixed, spine
from draftgraph.types import ROOT

LEAVES = ((0.3, 7), (0.6, 5), (0.8, 3), (math.inf, 1))
"""Leaves beside the main path where the drafter's largest probability is at most so large: after CaPE, arXiv 2402.02082."""


def grow_branching(
    evaluate: Evaluate, draw: Draw | None, limits: Limits, branching: Sequence[int], children: str = "hybrid"
) -> tuple[DraftGraph, int]:
    """A tree of fixed shape: branching[d] children of a node of depth d, of a kind in `KINDS`; all FIXED without `draw`.

    Returns the graph and the number of drafter passes.
    """
    graph = DraftGraph()
    kind = KINDS[children] if draw is not None else fixed
    frontier = {ROOT: 0}  # the nodes of the level, by their places in the whole shape
    shape = zip(branching, expanded(branching, limits.budget), strict=True)
    for passes, (k, room) in enumerate(list(shape)[: limits.reach]):
        nodes = [node for node, place in frontier.items() if place < room]
        if not nodes:
            return graph, passes
        level = Level(graph, nodes, _evaluate_once(evaluate, graph, nodes), draw, k)
        kind(level, k)
        frontier = {
            child: frontier[node] * k + j
            for node, below in zip(nodes, level.children, strict=True)
            for j, child in enumerate(below)
        }
    return graph, min(len(branching), limits.reach)


def _evaluate_once(evaluate: Evaluate, graph: DraftGraph, nodes: Sequence[int]) -> torch.Tensor:
    """Rows behind nodes, f[n, V]; of nodes with the same prefix (a token drawn twice) only the first is evaluated.

    They then have the very same law, as i.i.d. paths must, and the same state in the drafter.
    """
    first: dict[tuple[int, ...], int] = {}
    same = [first.setdefault(tuple(graph.path_tokens(node)), node) for node in nodes]
    asked = list(first.values())
    q = evaluate(graph, asked)
    if len(asked) == len(nodes):
        return q
    graph.fed.update((node, graph.fed[other]) for node, other in zip(nodes, same, strict=True))
    return q[[asked.index(other) for other in same]]


def expanded(branching: Sequence[int], budget: int) -> list[int]:
    """How many places of every level go on: all of them, or the first ones if the budget runs out.

    It is counted for the whole shape, before anything is drawn: a slot that another branch could not fill (for want of
    tokens) is not spent elsewhere, because then the shape of one branch would look at the tokens of another.
    """
    places, counts = 1, []
    for k in branching:
        counts.append(min(places, budget // k))
        places = counts[-1] * k
        budget -= places
    return counts


def paths(limits: Limits, branching: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of K paths of one length, as many or as long as the budget allows: (K, 1, 1, ...)."""
    length = min(limits.depth, limits.budget) if branching is None else len(branching)
    count = limits.budget // length if branching is None else min(branching[0], limits.budget)
    return (count, *(1,) * (min(length, limits.budget // count) - 1))


def grow_comb(evaluate: Evaluate, draw: Draw | None, limits: Limits) -> tuple[DraftGraph, int]:
    """One main path, and leaves beside it: more where the drafter is less sure (CaPE, arXiv 2402.02082).

    The main path is SAMPLED and the leaves are the best tokens, FIXED (`spine`); without `draw` it is the best token and
    they are the runners-up. Every level keeps one slot of the budget; leaves take what is left, from the top.
    Returns the graph and the number of drafter passes.
    """
    graph = DraftGraph()
    kind = spine if draw is not None else fixed
    node, depth = ROOT, min(limits.depth, limits.reach, limits.budget)
    for passes in range(depth):
        if graph.score(node) < max(limits.floor, limits.price_pass(passes)):
            return graph, passes
        q = evaluate(graph, [node])
        spare = limits.budget - len(graph) - (depth - passes)
        leaves = min(spare, next(count for bound, count in LEAVES if float(q.max()) <= bound))
        level = Level(graph, [node], q, draw, 1 + leaves)
        kind(level, 1 + leaves)
        node = level.children[0][0]
    return graph, depth
