"""Combs: one main path, and leaves beside it where the drafter is unsure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.base import Growth, Structure
from draftgraph.draft.structures.children import Level, fixed, spine
from draftgraph.draft.terms import Draw, Evaluate, Limits
from draftgraph.types import ROOT

LEAVES = ((0.3, 7), (0.6, 5), (0.8, 3), (math.inf, 1))
"""Leaves beside the main path where the drafter's largest probability is at most so large: after CaPE, arXiv 2402.02082."""


@dataclass(frozen=True, repr=False)
class Comb(Structure):
    """One main path with leaves beside it, more of them where the drafter is unsure (CaPE, arXiv 2402.02082)."""

    name: ClassVar[str] = "comb"
    copied: ClassVar[bool] = True

    def grow(self, growth: Growth) -> DraftGraph:
        return grow_comb(growth.evaluate, growth.draw, growth.limits)[0]


def grow_comb(evaluate: Evaluate, draw: Draw | None, limits: Limits) -> tuple[DraftGraph, int]:
    """One main path, and leaves beside it: more where the drafter is less sure (CaPE, arXiv 2402.02082).

    The main path is SAMPLED and the leaves are the best tokens, FIXED (`spine`); without `draw` it is the best token and
    they are the runners-up. Every level keeps one slot of the budget; leaves take what is left, from the top.
    Returns the graph and the number of drafter passes.
    """
    graph = DraftGraph(across=False)
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
