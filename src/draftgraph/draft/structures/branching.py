"""Growth to a shape that is given beforehand: the same number of children for every node of a depth.

What hangs below a node looks at the tokens of its own path only, so that rules which need branches that were drawn alike can
use these drafts. Special cases: (1, 1, 1) is a chain; (K, 1, 1) with children="with_replacement" is K i.i.d.
paths; (1, 1, 3, 1) branches late, where a path has become uncertain (delayed tree expansion, arXiv 2602.16994).
"""

from __future__ import annotations

from collections.abc import Sequence

from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.children import expand
from draftgraph.draft.terms import Draw, Evaluate, Limits
from draftgraph.types import ROOT


def grow_branching(
    evaluate: Evaluate, draw: Draw | None, limits: Limits, branching: Sequence[int], children: str = "hybrid"
) -> tuple[DraftGraph, int]:
    """A tree of fixed shape: branching[d] children of a node of depth d, of a kind in `KINDS`; all FIXED without `draw`.

    Returns the graph and the number of drafter passes.
    """
    graph = DraftGraph(across=False)
    frontier = {ROOT: 0}  # the nodes of the level, by their places in the whole shape
    shape = zip(branching, expanded(branching, limits.budget), strict=True)
    for passes, (k, room) in enumerate(list(shape)[: limits.reach]):
        nodes = [node for node, place in frontier.items() if place < room]
        if not nodes:
            return graph, passes
        below = expand(graph, nodes, evaluate, draw, k, children)
        frontier = {
            child: frontier[node] * k + j
            for node, siblings in zip(nodes, below, strict=True)
            for j, child in enumerate(siblings)
        }
    return graph, min(len(branching), limits.reach)


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
