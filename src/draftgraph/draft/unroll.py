"""Unrolling: the graph becomes the tree that the target sees, with a shared continuation copied once per path.

Edges never lead back to a row that the path has already passed, so there are no cycles; the verify budget bounds the tree.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from draftgraph.draft.graph import DraftGraph, Edge, EdgeSource, Refuses, Row, RowKey
from draftgraph.types import FIXED, ROOT


@dataclass(order=True)
class _Candidate:
    """A possible next node of the unrolled tree; `rank` walks down its parent's row."""

    negative_score: float
    order: int
    parent: int = field(compare=False)
    rank: int = field(compare=False)
    edge: Edge | None = field(compare=False)
    row: Row = field(compare=False)
    scale: float = field(compare=False)
    passed: frozenset[RowKey] = field(compare=False)


class Unroller:
    """Best-first unrolling of a graph: always the candidate with the highest path score, until the budget is spent.

    Scores are products of factors <= 1, so the result is closed under prefixes and holds the highest path scores.

    refuses  which copies would be rejected for certain; they get no node.
    """

    def __init__(
        self,
        graph: DraftGraph,
        sources: Sequence[EdgeSource],
        context: Sequence[int],
        floor: float,
        width: int | None = None,
        refuses: Refuses | None = None,
    ) -> None:
        self.graph, self.sources, self.floor, self.width = graph, sources, floor, width
        self.refuses = refuses
        self.context = list(context)
        self._heap: list[_Candidate] = []
        self._order = 0
        self._suffixes: dict[int, list[int]] = {ROOT: self.context}

    def grow(self, nodes: Sequence[int], budget: int, max_depth: int, first: Edge | None = None) -> None:
        """Append copies below `nodes` (unevaluated nodes of the graph), until it holds `budget` nodes. All are FIXED.

        `first`, if given, is the edge of the first of them.
        """
        graph = self.graph
        for i, node in enumerate(nodes):
            if graph.depth(node) < max_depth:
                self._open(node, None, frozenset(), first if i == 0 else None)
        while self._heap and len(graph) < budget:
            best = heapq.heappop(self._heap)
            assert best.edge is not None
            token = best.row.tokens[best.rank]
            edge, score = best.edge, -best.negative_score
            if self.refuses is not None and self.refuses(graph.path_tokens(best.parent), token):
                self._push(best.parent, best.rank + 1, edge, best.row, best.scale, best.passed)
                continue
            node = graph.add(best.parent, token, score, FIXED, edge.source, edge.key[1], edge.match_length)
            graph.edges.setdefault(best.parent, edge)
            self._push(best.parent, best.rank + 1, edge, best.row, best.scale, best.passed)
            if graph.depth(node) < max_depth:
                self._open(node, (edge, token), best.passed)

    def beginning(self) -> Edge | None:
        """The edge behind the text, the one of the longest match."""
        return self._look_up(ROOT, frozenset())

    def _open(
        self, node: int, came_by: tuple[Edge, int] | None, passed: frozenset[RowKey], edge: Edge | None = None
    ) -> None:
        """Find a row for an unevaluated node: the run that it is copied from goes on, or a new edge is looked up."""
        if edge is None and came_by is not None:
            edge = self._continue(came_by)
        if edge is None or edge.key in passed:
            edge = self._look_up(node, passed)
        if edge is not None:
            self._push(node, 0, edge, edge.row, self.graph.score(node) * edge.discount, passed | {edge.key})

    def _continue(self, came_by: tuple[Edge, int]) -> Edge | None:
        edge, token = came_by
        for source in self.sources:
            following = source.follow(edge.key, token)
            if following is not None:
                key, row = following
                return Edge(row, key, edge.following, edge.source, edge.match_length, edge.following, followed=True)
        return None

    def _look_up(self, node: int, passed: frozenset[RowKey]) -> Edge | None:
        suffix = self._suffix(node)
        found = [
            edge for source in self.sources if (edge := source.match(suffix)) is not None and edge.key not in passed
        ]
        return max(found, key=lambda edge: edge.match_length, default=None)

    def _suffix(self, node: int) -> list[int]:
        if node not in self._suffixes:
            self._suffixes[node] = [*self._suffix(self.graph.parents[node]), self.graph.tokens[node]][-8:]
        return self._suffixes[node]

    def _push(self, parent: int, rank: int, edge: Edge, row: Row, scale: float, passed: frozenset[RowKey]) -> None:
        if rank < len(row.tokens) and (self.width is None or rank < self.width):
            score = scale * row.probs[rank]
            if score >= self.floor:
                self._order += 1
                heapq.heappush(self._heap, _Candidate(-score, self._order, parent, rank, edge, row, scale, passed))
