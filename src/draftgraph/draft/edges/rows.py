"""Edge sources: rows that exist already and can stand in where the drafter was not asked.

Measured: two equal tokens make a borrowed row nearly as good as a fresh one, one token does not; so the longest match
wins and every edge is discounted by a factor that is learnt from what the target accepted, per source and match length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from draftgraph.draft.graph import MERGED, DraftGraph, Edge, Row, RowKey
from draftgraph.types import ROOT

MAX_MATCH = 6
LATEST = 4
"""Places of a text that are remembered of what follows the same tokens."""
PRIOR = {
    "merge": (0.5, 0.8, 0.9, 0.9),
    "own": (0.5, 0.8, 0.9, 0.9),
    "context": (0.1, 0.3, 0.35, 0.4),
    "rejected": (0.5, 0.8, 0.9, 0.9),
    "text": (0.3, 0.5, 0.7, 0.9),
    "table": (0.3, 0.5, 0.5, 0.5),
    "search": (0.5, 1.0, 1.0, 1.0),
}
"""Discounts before anything is learnt, by match length 1, 2, 3, 4 and more; measured on three small pairs."""
FOLLOWING = {"merge": 0.95, "own": 0.9, "context": 0.7, "rejected": 0.95, "text": 0.9, "table": 1.0, "search": 1.0}
"""The same for every further token of a run that has begun to agree."""
PRIOR_WEIGHT = 4.0


class Discounts:
    """γ[source][match length]: how much of a borrowed row's probability the target confirms, learnt over a request.

    Steps that follow a run are kept apart, as match length 0.
    """

    def __init__(self) -> None:
        self._hits: dict[tuple[str, int], float] = defaultdict(float)
        self._predicted: dict[tuple[str, int], float] = defaultdict(float)

    def __call__(self, source: str, length: int) -> float:
        key = (source, min(length, 4))
        prior = PRIOR[source][key[1] - 1] if length else FOLLOWING[source]
        hits = self._hits[key] + PRIOR_WEIGHT * prior
        return min(1.0, max(0.05, hits / (self._predicted[key] + PRIOR_WEIGHT)))

    def edge(self, row: Row, key: RowKey, source: str, length: int) -> Edge:
        """An edge to a row that was found by a match of `length` tokens."""
        return Edge(row, key, self(source, length), source, length, self(source, 0))

    def learn(self, source: str, length: int, predicted: float, hit: bool) -> None:
        """The target reached an edge that promised `predicted` mass; `hit` if it took one of its tokens."""
        key = (source, min(length, 4))
        self._predicted[key] += predicted
        self._hits[key] += hit


class DraftRows:
    """Rows that the drafter evaluated behind nodes of a draft. Of equal matches the node drafted first wins.

    source  "merge" for the draft of this round: the merge of GSD; "rejected" for the one before.
    context  the text that the draft continued. without  nodes left out.
    """

    def __init__(
        self,
        graph: DraftGraph,
        context: Sequence[int],
        discounts: Discounts,
        source: str = MERGED,
        without: Collection[int] = (),
    ) -> None:
        self.rows, self.discounts, self.source = graph.rows, discounts, source
        self._by_suffix: dict[tuple[int, ...], int] = {}
        self._children: dict[tuple[int, int], int] = {}
        tail = list(context[-MAX_MATCH:])
        for node in graph.rows:
            if node == ROOT or node in without:
                continue
            suffix = [*tail, *graph.path_tokens(node)][-MAX_MATCH:]
            for length in range(1, len(suffix) + 1):
                self._by_suffix.setdefault(tuple(suffix[-length:]), node)
            self._children.setdefault((graph.parents[node], graph.tokens[node]), node)

    def match(self, suffix: Sequence[int]) -> Edge | None:
        for length in range(min(MAX_MATCH, len(suffix)), 0, -1):
            node = self._by_suffix.get(tuple(suffix[-length:]))
            if node is not None:
                return self.discounts.edge(self.rows[node], (self.source, node), self.source, length)
        return None

    def follow(self, key: RowKey, token: int) -> tuple[RowKey, Row] | None:
        if key[0] != self.source:
            return None
        child = self._children.get((key[1], token))
        return None if child is None else ((self.source, child), self.rows[child])


class TextRows:
    """Rows of a text: the target's own rows where it has computed them ("own"), else the token that came next.

    name  the source of next-token rows: "context" for the request's own text, "text" for text supplied by the user.
    own, following  which of the two kinds of rows may be used.
    """

    def __init__(self, discounts: Discounts, name: str = "context", own: bool = True, following: bool = True) -> None:
        self.discounts, self.name = discounts, name
        self._own, self._following = own, following
        self.tokens: list[int] = []
        self._rows: dict[int, Row] = {}
        self._by_suffix: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._indexed = 0

    def extend(self, tokens: Sequence[int], rows: Sequence[Row | None] = ()) -> None:
        """Append text; `rows[i]`, if given, is the target's row that predicted `tokens[i]`."""
        for position, row in enumerate(rows, len(self.tokens)):
            if row is not None:
                self._rows[position] = row
        self.tokens += tokens

    def _index(self) -> None:
        """Enter every position that has come since under every suffix of the text before it; the latest comes first.

        This waits for the first match that is asked for: chains beside others copy nothing.
        """
        known = self._by_suffix
        for position in range(self._indexed, len(self.tokens)):
            tail = tuple(self.tokens[max(0, position - MAX_MATCH) : position])
            for start in range(len(tail)):
                suffix = tail[start:]
                known[suffix] = (position, *known.get(suffix, ())[: LATEST - 1])
        self._indexed = len(self.tokens)

    def match(self, suffix: Sequence[int]) -> Edge | None:
        self._index()
        for length in range(min(MAX_MATCH, len(suffix)), 0, -1):
            positions = self._by_suffix.get(tuple(suffix[-length:]), ())
            found = self._row(positions)
            if found is not None:
                row, source = found
                return self.discounts.edge(row, (self.name, positions[0]), source, length)
        return None

    def follow(self, key: RowKey, token: int) -> tuple[RowKey, Row] | None:
        if key[0] != self.name:
            return None
        position = key[1]
        if self.tokens[position] != token or position + 1 >= len(self.tokens):
            return None
        found = self._row([position + 1])
        return None if found is None else ((self.name, position + 1), found[0])

    def start(self) -> Edge | None:
        """The edge to the beginning of the text, for output that is expected to repeat it from its first token."""
        found = self._row([0]) if self.tokens else None
        return None if found is None else self.discounts.edge(found[0], (self.name, 0), found[1], 4)

    def _row(self, positions: Sequence[int]) -> tuple[Row, str] | None:
        """The row behind the first of these positions, and its source; None if there is none that may be used."""
        if not positions:
            return None
        row = self._rows.get(positions[0])
        if row is not None and self._own:
            return row, "own"
        if not self._following:
            return None
        following = [self.tokens[position] for position in positions]
        counts = {token: following.count(token) / len(following) for token in dict.fromkeys(following)}
        ordered = sorted(counts, key=lambda token: -counts[token])
        return Row(ordered, [counts[token] for token in ordered]), self.name
