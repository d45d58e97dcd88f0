"""Growth with FIXED slots only: best-first by path score, in batched passes.

At temperature 0, and under the `agree` rule, whose candidates may look at the position's own noise. Every slot is a
deterministic candidate, so any order of growth is sound and the highest path scores are simply the best draft.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from draftgraph.draft.graph import DraftGraph, EdgeSource, Expected, Refuses
from draftgraph.draft.structures.base import nothing
from draftgraph.draft.terms import Evaluate, Known, Limits
from draftgraph.draft.unroll import Unroller
from draftgraph.types import ROOT

WIDTH = 8
"""Continuations kept of every evaluated row."""


def grow_best_first(
    evaluate: Evaluate, limits: Limits, expected: Expected = list, width: int = WIDTH, known: Known = nothing
) -> tuple[DraftGraph, int]:
    """The `limits.budget` nodes of highest path score that `limits.depth` batched passes can find.

    Every pass evaluates all nodes that are in the best tree so far and have no row yet; `width` 1 gives a chain.
    `expected` turns a row's probabilities into estimates of what the target will choose. Rows that are `known` cost no pass.
    Returns the graph and the number of passes.
    """
    pool = DraftGraph()
    children: dict[tuple[int, int], int] = {}
    frontier = [ROOT]
    chosen: list[int] = []
    passes = 0
    while frontier:
        unread = [node for node in frontier if not known(pool, node)]
        if unread and passes < limits.depth and sum(map(pool.score, unread)) >= limits.price_pass(passes):
            passes += 1
        else:
            frontier = [node for node in frontier if node not in unread]
        if not frontier:
            break
        pool.remember(frontier, evaluate(pool, frontier), width, expected)
        chosen = _best(pool, children, limits)
        frontier = [node for node in chosen if node not in pool.rows and pool.depth(node) < limits.reach]
    return (pool if len(chosen) == len(pool) else pool.subset(chosen)), passes


def _best(pool: DraftGraph, children: dict[tuple[int, int], int], limits: Limits) -> list[int]:
    """The nodes of highest path score below the rows evaluated so far; new ones join the pool."""
    chosen: list[int] = []
    heap = [(-pool.rows[ROOT].probs[0], ROOT, 0)]
    while heap and len(chosen) < limits.budget:
        negative, parent, rank = heapq.heappop(heap)
        if -negative < limits.floor:
            break
        row = pool.rows[parent]
        node = children.get((parent, rank))
        if node is None:
            node = children[parent, rank] = pool.add(parent, row.tokens[rank], -negative)
        chosen.append(node)
        if rank + 1 < len(row.tokens) and row.probs[rank + 1] > 0.0:
            heapq.heappush(heap, (-pool.score(parent) * row.probs[rank + 1], parent, rank + 1))
        if node in pool.rows and pool.depth(node) < limits.reach:
            heapq.heappush(heap, (negative * pool.rows[node].probs[0], node, 0))
    return chosen


def add_edges(
    graph: DraftGraph,
    sources: Sequence[EdgeSource],
    context: Sequence[int],
    limits: Limits,
    refuses: Refuses | None = None,
) -> DraftGraph:
    """Let copies along edges compete with the drafted nodes for the budget, at every node that was not evaluated."""
    full = len(graph) >= limits.budget
    floor = max(limits.floor, min(graph.scores)) if full else limits.floor
    open_nodes = graph.unevaluated(limits.reach)
    unroller = Unroller(graph, sources, context, floor, refuses=refuses)
    unroller.grow(open_nodes, len(graph) + limits.budget, limits.reach)
    if len(graph) <= limits.budget:
        return graph
    best = sorted(range(len(graph)), key=lambda node: (-graph.scores[node], node))
    return graph.subset(best[: limits.budget])
