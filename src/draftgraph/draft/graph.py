"""The draft graph and its unrolling: integers and scores only, no model.

A graph node is a token behind a parent. A node that the drafter evaluated has a row of continuations; a node that it did
not evaluate may have an **edge** to a row that already exists (of another node of this round, of the request's own text):
that is a merge, and the continuation is shared instead of drafted again. A target row depends on its whole prefix, so for
verification the graph is unrolled into a tree (`unroll`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch

from draftgraph.errors import DraftError
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


class Row(NamedTuple):  # several are made in every round, and a frozen dataclass takes three times as long
    """Likely continuations of a prefix, best first, with their estimated probabilities."""

    tokens: Sequence[int]
    probs: Sequence[float]


@dataclass(frozen=True)
class Edge:
    """A shared row: continue as `row` does, at a discount.

    key     identity of the row; a path does not pass one twice.
    source  where the row comes from; match_length  how many tokens agree.
    following  the discount of every further step of the run that `row` belongs to; followed  whether this is such a step.
    """

    row: Row
    key: RowKey
    discount: float
    source: str
    match_length: int
    following: float = 1.0
    followed: bool = False


class EdgeSource(Protocol):
    """Somewhere to look up the row of a prefix that the drafter has not evaluated."""

    def match(self, suffix: Sequence[int]) -> Edge | None:
        """The edge for a prefix that ends in `suffix` (longest match), or None."""
        ...

    def follow(self, key: RowKey, token: int) -> tuple[RowKey, Row] | None:
        """The row behind `token` in the run that row `key` belongs to, or None where the run ends."""
        ...


Refuses = Callable[[Sequence[int], int], bool]
"""refuses(path of drafted tokens, token) -> whether the request's grammar rules out that the token follows them."""
DrawOne = Callable[[torch.Tensor, int], int]
"""draw(law f[V], node) -> token: one fresh draw from `law`, with noise that belongs to the node alone."""


@dataclass
class DraftGraph:
    """A draft while it grows: nodes with their laws, and where each one came from. `fix` and `sample` append a node.

    rows   continuations of the nodes that the drafter evaluated; promised  their probabilities as the drafter gave them.
    fed    for those nodes, their number among the rows that the drafter was fed this round.
    edges  the borrowed row of every node whose children are copies.
    drafted_at  where the row of every node was computed: the parent of a drafted node, else the number in the edge's key (for
            a MERGED node a node of this graph), None where that is not known.
    matched  for every copy how many tokens agreed with the place that it was copied from; 0 for drafted nodes.
    across False promises that growth looked at a branch's own tokens only before it gave the branch a slot. Some rules need
           that. True promises nothing.
    confidence  of every node, as in `TokenTree`; None: nobody asked.
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
    promised: dict[int, Sequence[float]] = field(default_factory=dict)
    fed: dict[int, int] = field(default_factory=dict)
    edges: dict[int, Edge] = field(default_factory=dict)
    depths: list[int] = field(default_factory=list)
    across: bool = True
    confidence: Sequence[float] | None = None
    _num_laws: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def fix(self, parent: int, token: int, score: float | None = None) -> int:
        """Append a FIXED slot: a token that is chosen, copied or looked up. Returns its node.

        parent  the node that the token follows, or ROOT.
        score   estimated chance that the target comes here; None: the parent's.

        Raises DraftError if the draft has no such parent.
        """
        return self.add(self._existing(parent), operator.index(token), self.score(parent) if score is None else score)

    def sample(self, parent: int, law: torch.Tensor, draw: DrawOne, score: float | None = None) -> int:
        """Append a SAMPLED slot: one fresh draw from `law`, which is kept beside the token. Returns its node.

        parent  the node that the token follows, or ROOT.
        law     f[V], probabilities over the target's vocabulary; copied.
        draw    `request.draw`.
        score   estimated chance that the target comes here; None: the parent's. It must not look at the token.

        Raises DraftError if the draft has no such parent, or if `law` is not one row.
        """
        self._existing(parent)
        if law.ndim != 1:
            raise DraftError(f"a law is one row f[V] of probabilities; got shape {list(law.shape)}")
        kept = law.clone()
        token = draw(kept, len(self))
        return self.add(parent, token, self.score(parent) if score is None else score, self.add_laws(kept[None]))

    def _existing(self, parent: int) -> int:
        if not ROOT <= parent < len(self):
            raise DraftError(
                f"node {len(self)} has parent {parent}, which is not in the draft; write dg.ROOT (-1) or a node that "
                "`fix` or `sample` has returned"
            )
        return parent

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
        self.depths.append(1 if parent == ROOT else self.depths[parent] + 1)
        return len(self.tokens) - 1

    def add_laws(self, laws: torch.Tensor) -> int:
        """Store rows f[k, V] that tokens were drawn from; returns the index of the first."""
        first, self._num_laws = self._num_laws, self._num_laws + laws.shape[0]
        self.laws.append(laws)
        return first

    def remember(self, nodes: Sequence[int], q: torch.Tensor, width: int, expected: Expected = list) -> list[Row]:
        """Keep the `width` best continuations of freshly evaluated nodes, from their rows f[n, V]."""
        probs, tokens = q.topk(min(width, q.shape[1]), dim=1)
        promised = probs.tolist()
        rows = [Row(t, expected(w)) for t, w in zip(tokens.tolist(), promised, strict=True)]
        self.rows.update(zip(nodes, rows, strict=True))
        self.promised.update(zip(nodes, promised, strict=True))
        return rows

    def remember_best(self, node: int, q: torch.Tensor, expected: Expected = list) -> Row:
        """`remember` for one node, of which the best continuation is kept. q  f[1, V], its row."""
        if q.is_cpu:  # a fifth of what `topk` takes
            held = q.numpy()
            token = int(held.argmax())
            prob = held.item(token)
        else:
            best = q[0].max(dim=0)
            prob, token = float(best.values), int(best.indices)
        promised = [prob]
        row = self.rows[node] = Row([token], expected(promised))
        self.promised[node] = promised
        return row

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
        across = self.across and laws is not None
        return TokenTree(self.tokens, self.parents, self.law_row, laws, across=across, confidence=self.confidence)

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
        kept.promised = {number[node]: probs for node, probs in self.promised.items() if node in number}
        kept.fed = {number[node]: row for node, row in self.fed.items() if node in number}
        kept.edges = {number[node]: edge for node, edge in self.edges.items() if node in number}
        return kept

    @property
    def num_merged(self) -> int:
        return len(self.origins) - self.origins.count(DRAFTED)
