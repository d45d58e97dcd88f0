"""The draft graph and its unrolling: integers and scores only, no model.

A graph node is a token behind a parent. A node that the drafter evaluated has a row of continuations; a node that it did
not evaluate may have an **edge** to a row that already exists (of another node of this round, of the request's own text):
that is a merge, and the continuation is shared instead of drafted again. A target row depends on its whole prefix, so for
verification the graph is unrolled into a tree, in which a shared continuation is copied once per path. Edges never lead
back to a row that the path has already passed (no cycles), and unrolling is bounded by the verify budget.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from draftgraph.types import FIXED, ROOT, TokenTree

DRAFTED = "drafter"
"""Origin of a node that the drafter proposed itself; other origins are the names of edge sources."""
MERGED = "merge"
"""Origin of a node that was copied from a row which the drafter computed this round."""
RowKey = tuple[str, int]
"""Identity of a row: what it belongs to, and its node there (of this round) or its position (in a text)."""
SHARED_ROW = 8
"""Tokens of an evaluated row that edges may borrow."""
Expected = Callable[[Sequence[float]], list[float]]
"""What the target will choose, estimated from the probabilities of a row, best first."""


@dataclass(frozen=True)
class Row:
    """Likely continuations of a prefix, best first, with their estimated probabilities."""

    tokens: Sequence[int]
    probs: Sequence[float]


@dataclass(frozen=True)
class Edge:
    """A shared row: continue as `row` does, at a discount paid once per edge.

    key     identity of the row; a path does not pass one twice.
    source  where the row comes from; match_length  how many tokens agree.
    """

    row: Row
    key: RowKey
    discount: float
    source: str
    match_length: int


class EdgeSource(Protocol):
    """Somewhere to look up the row of a prefix that the drafter has not evaluated."""

    def match(self, suffix: Sequence[int]) -> Edge | None:
        """The edge for a prefix that ends in `suffix` (longest match), or None."""
        ...

    def follow(self, key: RowKey, token: int) -> tuple[RowKey, Row] | None:
        """The row behind `token` in the run that row `key` belongs to, or None where the run ends."""
        ...


@dataclass
class DraftGraph:
    """A draft while it grows: nodes with their laws, and where each one came from.

    rows   continuations of the nodes that the drafter evaluated.
    fed    for those nodes, their number among the rows that the drafter was fed this round.
    edges  the borrowed row of every node whose children are copies.
    drafted_at  where the row of every node was computed: the parent of a drafted node, else the number in the edge's key (for
            a MERGED node a node of this graph), None where that is not known.
    matched  for every copy how many tokens agreed with the place that it was copied from; 0 for drafted nodes.
    across True if growth looked at all upper layers, not only at a branch's own tokens, before it gave the branch a slot.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    law_row: list[int] = field(default_factory=list)
    laws: list[torch.Tensor] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    drafted_at: list[int | None] = field(default_factory=list)
    matched: list[int] = field(default_factory=list)
    rows: dict[int, Row] = field(default_factory=dict)
    fed: dict[int, int] = field(default_factory=dict)
    edges: dict[int, Edge] = field(default_factory=dict)
    depths: list[int] = field(default_factory=list)
    across: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    def add(
        self,
        parent: int,
        token: int,
        score: float,
        law: int = FIXED,
        origin: str = DRAFTED,
        drafted_at: int | None = None,
        matched: int = 0,
    ) -> int:
        """Append a node; `score` estimates the probability that the target reaches it. Returns its index.

        `drafted_at` and `matched` are for a copy; whatever the drafter proposed itself was drafted behind its parent.
        """
        self.tokens.append(token)
        self.parents.append(parent)
        self.law_row.append(law)
        self.scores.append(score)
        self.origins.append(origin)
        self.drafted_at.append(parent if origin == DRAFTED else drafted_at)
        self.matched.append(matched)
        self.depths.append(self.depth(parent) + 1)
        return len(self.tokens) - 1

    def add_laws(self, laws: torch.Tensor) -> int:
        """Store rows f[k, V] that tokens were drawn from; returns the index of the first."""
        first = sum(len(block) for block in self.laws)
        self.laws.append(laws)
        return first

    def remember(self, nodes: Sequence[int], q: torch.Tensor, width: int, expected: Expected = list) -> list[Row]:
        """Keep the `width` best continuations of freshly evaluated nodes, from their rows f[n, V]."""
        probs, tokens = q.topk(min(width, q.shape[1]), dim=1)
        rows = [Row(t, expected(w)) for t, w in zip(tokens.tolist(), probs.tolist(), strict=True)]
        self.rows.update(zip(nodes, rows, strict=True))
        return rows

    def score(self, node: int) -> float:
        return 1.0 if node == ROOT else self.scores[node]

    def depth(self, node: int) -> int:
        return 0 if node == ROOT else self.depths[node]

    def unevaluated(self, reach: int) -> list[int]:
        """The nodes above depth `reach` that the drafter was not asked about; the root among them if there was no pass."""
        nodes = (ROOT, *range(len(self)))
        return [node for node in nodes if node not in self.rows and self.depth(node) < reach]

    def path_tokens(self, node: int) -> list[int]:
        tokens: list[int] = []
        while node != ROOT:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def tree(self) -> TokenTree:
        """The draft as the target sees it. Where nothing is SAMPLED the shape could not have looked at a draw."""
        laws = None if not self.laws else self.laws[0] if len(self.laws) == 1 else torch.cat(self.laws)
        return TokenTree(self.tokens, self.parents, self.law_row, laws, across=self.across and laws is not None)

    def subset(self, nodes: Sequence[int]) -> DraftGraph:
        """The graph of `nodes` only (closed under parents; all FIXED), in their old order."""
        kept = DraftGraph()
        number = {ROOT: ROOT}
        for node in sorted(nodes):
            origin, at = self.origins[node], self.drafted_at[node]
            at = number.get(at) if origin == MERGED and at is not None else at
            number[node] = kept.add(
                number[self.parents[node]], self.tokens[node], self.scores[node], FIXED, origin, at, self.matched[node]
            )
        kept.rows = {number[node]: row for node, row in self.rows.items() if node in number}
        kept.fed = {number[node]: row for node, row in self.fed.items() if node in number}
        kept.edges = {number[node]: edge for node, edge in self.edges.items() if node in number}
        return kept

    @property
    def num_merged(self) -> int:
        return sum(origin != DRAFTED for origin in self.origins)


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
    """

    def __init__(
        self,
        graph: DraftGraph,
        sources: Sequence[EdgeSource],
        context: Sequence[int],
        floor: float,
        width: int | None = None,
    ) -> None:
        self.graph, self.sources, self.floor, self.width = graph, sources, floor, width
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
            node = graph.add(best.parent, token, score, FIXED, edge.source, edge.key[1], edge.match_length)
            graph.edges.setdefault(best.parent, edge)
            self._push(best.parent, best.rank + 1, edge, best.row, best.scale, best.passed)
            if graph.depth(node) < max_depth:
                self._open(node, (edge, token), best.passed)

    def _open(
        self, node: int, came_by: tuple[Edge, int] | None, passed: frozenset[RowKey], edge: Edge | None = None
    ) -> None:
        """Find a row for an unevaluated node: the run it is copied from goes on for free, a new edge costs its discount."""
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
                return Edge(following[1], following[0], 1.0, edge.source, edge.match_length)
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
