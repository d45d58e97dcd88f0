"""The published order of Graph-Structured Speculative Decoding (arXiv 2407.16207), as a named baseline.

A proposed token that repeats, together with its τ predecessors, a token already in the graph is not drafted again: an
edge to the first occurrence is recorded and that continuation is shared. Kept from the paper: k children per node, the
two probability thresholds, breadth-first growth, earliest occurrence wins. Not kept, because they are defects of the
published code (a node remembers only its last edge; edges can close cycles; a breadth-first cap of 100 nodes): here all
edges are kept, cycles are refused, and unrolling is best-first within the verify budget.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import ClassVar

from draftgraph.draft.graph import DRAFTED, MERGED, DraftGraph, Edge, Row
from draftgraph.draft.structures.base import Growth, Structure
from draftgraph.draft.structures.sizes import size
from draftgraph.draft.terms import Evaluate, Limits
from draftgraph.types import ROOT

CHILDREN = 4
STOP_BELOW = 0.4
"""θ_prob: growth goes on while some path has every token at or above it."""
SIBLING_RATIO = 0.2
"""θ_sib: a child is kept if it has this share of its best sibling's probability."""
MAX_NODES = 512


@dataclass(frozen=True, repr=False)
class GSD(Structure):
    """The published order of GSD, in which merging skips drafter evaluations. Slots are FIXED at every temperature.

    match  τ: a token is merged if it and its τ predecessors occurred before in the draft; -1 merges nothing.

    Raises OptionError for a τ that is not an integer >= -1.
    """

    match: int = 1
    name: ClassVar[str] = "gsd"

    def __post_init__(self) -> None:
        object.__setattr__(self, "match", size("match", self.match, -1))

    @property
    def draws(self) -> bool:
        return False

    @property
    def nodes_per_level(self) -> int:
        return CHILDREN

    def grow(self, growth: Growth) -> DraftGraph:
        return grow_gsd(growth.evaluate, growth.limits, self.match)[0]


def grow_gsd(evaluate: Evaluate, limits: Limits, match: int) -> tuple[DraftGraph, int]:
    """Grow by the paper's order with τ = `match` (-1 merges nothing), then unroll within the budget.

    Returns the tree and the passes.
    """
    graph = DraftGraph()
    links: dict[int, list[tuple[int, float]]] = {ROOT: []}  # node -> (node that continues it, probability)
    first: dict[tuple[int, ...], int] = {}  # (τ + 1)-gram -> its first occurrence
    frontier = [ROOT]
    weak: set[int] = set()
    passes = 0
    while frontier and passes < min(limits.depth, limits.reach) and len(graph) < MAX_NODES:
        graph.remember(frontier, evaluate(graph, frontier), CHILDREN)
        passes += 1
        grown: list[int] = []
        for node in frontier:
            grown += _expand(graph, node, match, links, first, weak)
        frontier = [] if all(node in weak for node in grown) else grown
    tree = _unroll(graph, links, limits)
    tree.matched = [match + 1 if origin == MERGED else 0 for origin in tree.origins]
    return tree, passes


def _expand(
    graph: DraftGraph,
    node: int,
    match: int,
    links: dict[int, list[tuple[int, float]]],
    first: dict[tuple[int, ...], int],
    weak: set[int],
) -> list[int]:
    """Children of an evaluated node: a repeated (τ + 1)-gram becomes an edge, anything else a new node."""
    row = graph.rows[node]
    new: list[int] = []
    links[node] = []
    for token, prob in zip(row.tokens, row.probs, strict=True):
        if prob < SIBLING_RATIO * row.probs[0] or prob <= 0.0:
            continue
        gram = (*graph.path_tokens(node), token)[-(match + 1) :]  # of the wrong length for τ = -1, so never found
        target = first.get(gram) if len(gram) == match + 1 else None
        if target is None or _reaches(links, target, node):
            child = graph.add(node, token, graph.score(node) * prob)
            if target is None and len(gram) == match + 1:
                first[gram] = child
            if node in weak or prob < STOP_BELOW:
                weak.add(child)
            links[child] = []
            new.append(child)
            target = child
        else:
            graph.edges[node] = Edge(row, ("gsd", target), 1.0, MERGED, match + 1)
        links[node].append((target, prob))
    return new


def _reaches(links: dict[int, list[tuple[int, float]]], start: int, goal: int) -> bool:
    """Whether `goal` can be reached from `start`: then an edge from goal to start would close a cycle."""
    stack, seen = [start], {start}
    while stack:
        node = stack.pop()
        if node == goal:
            return True
        new = [child for child, _ in links.get(node, ()) if child not in seen]
        seen.update(new)
        stack.extend(new)
    return False


def _unroll(graph: DraftGraph, links: dict[int, list[tuple[int, float]]], limits: Limits) -> DraftGraph:
    """Copy shared continuations once per path, best path score first, within the verify budget."""
    tree = DraftGraph()
    heap: list[tuple[float, int, int, int, bool]] = []
    drafted = {ROOT: ROOT}  # node of the graph -> its first place in the tree
    lenders: list[int] = []  # of every node of the tree, the node of the graph that it was drafted behind
    order = 0

    def push(parent: int, origin: int, copied: bool) -> None:
        nonlocal order
        for child, prob in links.get(origin, ()):
            order += 1
            merged = copied or graph.parents[child] != origin
            heapq.heappush(heap, (-tree.score(parent) * prob, order, parent, child, merged))

    push(ROOT, ROOT, False)
    while heap and len(tree) < limits.budget:
        negative, _, parent, origin, copied = heapq.heappop(heap)
        node = tree.add(parent, graph.tokens[origin], -negative, origin=MERGED if copied else DRAFTED)
        lenders.append(graph.parents[origin])
        if not copied:
            drafted[origin] = node
        if not copied and origin in graph.fed:
            tree.fed[node] = graph.fed[origin]
            tree.rows[node] = graph.rows[origin]
        if tree.depth(node) < limits.reach:
            push(node, origin, copied)
    tree.drafted_at = [drafted.get(lender) for lender in lenders]
    _record_edges(tree)
    return tree


def _record_edges(tree: DraftGraph) -> None:
    """Note where copies begin, so that statistics can tell accepted copies from accepted drafts."""
    for node, origin in enumerate(tree.origins):
        parent = tree.parents[node]
        if origin == MERGED and parent not in tree.edges and (parent == ROOT or tree.origins[parent] != MERGED):
            tree.edges[parent] = Edge(Row([tree.tokens[node]], [1.0]), ("gsd", node), 1.0, MERGED, 1)
