"""Tree search over an n-gram table (PUCT), after ADED (arXiv 2407.12021): which continuations are worth a node.

A simulation walks down from the last tokens. A node is expanded with all successors at once. Those that were never visited come
first, the likeliest before others; then the one with the largest

    Q + (c1 + log((N + c2 + 1) / c2)) · p · √N / (1 + n),        c1 = 32, c2 = 8

Q is the mean value of the simulations that went there, n is their number, N that of the node above, p the estimated probability
of the successor. The value of a simulation is 1 + the sum of the weights of the n-grams along its path. The published code looks
up another n-gram than the one that was walked; `value_weight` 0 is what remains of it, a search by p alone.
Three things differ from the paper. A path is finished greedily instead of by draws, so that a draft is a function of the text.
The greedy continuation is always found. And of what was found the likeliest nodes are drafted, not the most visited ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from draftgraph.draft.graph import Refuses
from draftgraph.draft.ngrams.table import Successors

DEPTH = 4
"""Tokens that a simulation looks ahead."""
SIMULATIONS = 32
"""As published 150, which take up to twice as long and find nothing better (docs/benchmarks/search.md)."""
PREFIXES, MOST_FOUND = 24, 64
"""Most visited prefixes that are entered, and nodes of a search, where the budget does not ask for more."""
C1, C2 = 32.0, 8.0
Path = tuple[int, ...]
Behind = Callable[[Sequence[int]], Successors | None]
"""behind(text) -> what may follow it."""
Trust = Callable[[int], float]
"""trust(length) -> how much of a row's probability the target confirms, where so many tokens agree."""


class Found(NamedTuple):
    """A drafted prefix. score  estimated chance that the target comes here. length  tokens that agree with the table's row."""

    path: Path
    score: float
    length: int


@dataclass
class Row:
    """What may follow a prefix, as the search knows it.

    weights  trusted probabilities, likeliest first. length  how many tokens agree.
    """

    tokens: Sequence[int]
    probs: Sequence[float]
    weights: Sequence[float]
    length: int


_NOTHING = Row((), (), (), 0)


class _Node:
    """An expanded prefix. means, shares, visits, kids  by successor: Q, p / (1 + n), n, the node there."""

    __slots__ = ("count", "kids", "means", "path", "row", "score", "shares", "visits")

    def __init__(self, path: Path, score: float, row: Row) -> None:
        self.path, self.score, self.row, self.count = path, score, row, 0
        self.means: list[float] = []
        self.shares: list[float] = []
        self.visits: list[int] = []
        self.kids: list[_Node | None] = []


class Search:
    """The search behind one text.

    context       its last tokens, two at least where there are so many.
    behind        the table.
    trust         a factor of every row.
    depth         of the deepest node.
    refuses       which tokens a grammar rules out; None: none.
    value_weight  of Q; 0 leaves it out.
    """

    def __init__(
        self,
        context: Sequence[int],
        behind: Behind,
        trust: Trust,
        depth: int,
        refuses: Refuses | None = None,
        value_weight: float = 1.0,
    ) -> None:
        self.context, self.behind, self.depth = tuple(context[-2:]), behind, depth
        self.refuses, self.value_weight = refuses, value_weight
        self._trust = {length: trust(length) for length in (1, 2)}
        self._rows: dict[Path, Row] = {}
        self._ends: dict[tuple[Path, int], float] = {}
        self._root = _Node((), 1.0, self._row(()))

    def found(self, budget: int, simulations: int = SIMULATIONS) -> list[Found]:
        """The greedy continuation and the most visited prefixes, each with its likeliest token; parents first.

        budget  nodes that are wanted: so many where the table knows them, and MOST_FOUND or fewer where that is more. Whoever
                asks takes the likeliest.
        """
        if not self._root.row.tokens:
            return []
        self._simulate(simulations)
        found: dict[Path, Found] = {}
        most = max(budget, MOST_FOUND)
        self._enter_greedy(found, (), 1.0, min(DEPTH, self.depth), most)
        for path in self._most_visited()[: max(budget, PREFIXES)]:
            if len(found) >= most:
                break
            self._enter(found, path)
            self._enter_greedy(found, path, found[path].score, 1, most)
        self._go_on(found, budget)
        return list(found.values())

    def _simulate(self, simulations: int) -> None:
        deepest, weight = min(DEPTH, self.depth), self.value_weight
        for _ in range(simulations):
            node, walked, value = self._root, [], 1.0
            while True:
                at = self._select(node)
                walked.append((node, at))
                value += node.row.weights[at]
                kid = node.kids[at]
                if kid is None:
                    kid = node.kids[at] = self._expand(node, at, deepest)
                    value += self._to_the_end((*self.context, *kid.path)[-2:], deepest - len(kid.path))
                    break
                if not kid.row.tokens:
                    break
                node = kid
            for node, at in walked:
                node.count += 1
                n = node.visits[at] = node.visits[at] + 1
                node.means[at] += (weight * value - node.means[at]) / n
                node.shares[at] = node.row.probs[at] / (1 + n)

    def _select(self, node: _Node) -> int:
        """The successor to go to."""
        tried = len(node.kids)
        if tried < len(node.row.tokens):
            node.kids.append(None)
            node.means.append(0.0)
            node.shares.append(0.0)
            node.visits.append(0)
            return tried
        if tried == 1:
            return 0
        c = (C1 + math.log((node.count + C2 + 1.0) / C2)) * math.sqrt(node.count)
        scores = [mean + c * share for mean, share in zip(node.means, node.shares, strict=True)]
        return scores.index(max(scores))

    def _expand(self, node: _Node, at: int, deepest: int) -> _Node:
        path = (*node.path, node.row.tokens[at])
        row = self._row(path) if len(path) < deepest else _NOTHING
        return _Node(path, node.score * node.row.weights[at], row)

    def _to_the_end(self, suffix: Path, steps: int) -> float:
        """The sum of the weights of `steps` greedy tokens."""
        if steps <= 0:
            return 0.0
        known = self._ends.get((suffix, steps))
        if known is None:
            row = self.behind(suffix)
            known = 0.0
            if row is not None:
                weight = self._trust[row.length] * row.probs[0]
                known = weight + self._to_the_end((*suffix, row.tokens[0])[-2:], steps - 1)
            self._ends[suffix, steps] = known
        return known

    def _row(self, path: Path) -> Row:
        """What may follow a path, without what the grammar refuses."""
        row = self._rows.get(path)
        if row is None:
            row = self._rows[path] = self._looked_up(path)
        return row

    def _looked_up(self, path: Path) -> Row:
        found = self.behind((*self.context, *path))
        if found is None:
            return _NOTHING
        tokens, probs, trust = found.tokens, found.probs, self._trust[found.length]
        if self.refuses is not None:
            kept = [i for i, token in enumerate(tokens) if not self.refuses(path, token)]
            tokens, probs = [tokens[i] for i in kept], [probs[i] for i in kept]
        return Row(tokens, probs, [trust * prob for prob in probs], found.length)

    def _most_visited(self) -> list[Path]:
        """All visited prefixes, those with most visits first, parents before their children."""
        ranked = sorted(self._visited(self._root), key=lambda each: each[:3])
        return [path for _, _, _, path in ranked]

    def _visited(self, node: _Node) -> Iterator[tuple[int, int, float, Path]]:
        for at, kid in enumerate(node.kids):
            if kid is not None:
                yield -node.visits[at], len(kid.path), -kid.score, kid.path
                yield from self._visited(kid)

    def _enter(self, found: dict[Path, Found], path: Path) -> None:
        """Enter a path whose parent is there."""
        if path not in found:
            row, above = self._row(path[:-1]), found[path[:-1]].score if path[:-1] else 1.0
            found[path] = Found(path, above * row.weights[row.tokens.index(path[-1])], row.length)

    def _enter_greedy(self, found: dict[Path, Found], path: Path, score: float, steps: int, budget: int) -> None:
        """Enter the likeliest tokens behind a path, one after the other."""
        for _ in range(steps):
            row = self._row(path)
            if not row.tokens or len(path) >= self.depth or len(found) >= budget:
                return
            path, score = (*path, row.tokens[0]), score * row.weights[0]
            found.setdefault(path, Found(path, score, row.length))

    def _go_on(self, found: dict[Path, Found], budget: int) -> None:
        """Fill up with greedy continuations of the prefixes that nothing follows, the likeliest first."""
        inner = {path[:-1] for path in found}
        leaves = [each for each in found.values() if each.path not in inner]
        while leaves and len(found) < budget:
            best = max(leaves, key=lambda each: each.score)
            leaves.remove(best)
            held = len(found)
            self._enter_greedy(found, best.path, best.score, 1, budget)
            if len(found) > held:
                leaves.append(next(reversed(found.values())))
