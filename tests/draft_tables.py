"""Drafting without a model: a random law behind every prefix, and what must hold of any draft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.terms import Limits
from draftgraph.types import FIXED, ROOT

VOCAB = 5


@dataclass
class Table:
    """An `evaluate` whose rows depend on the prefix alone (or on its last `order` tokens), and which counts its calls."""

    seed: int = 0
    vocab: int = VOCAB
    order: int | None = None
    sharpness: float = 2.0
    passes: list[list[int]] = field(default_factory=list)

    def row(self, prefix: Sequence[int]) -> torch.Tensor:
        seen = tuple(prefix)[-self.order :] if self.order else () if self.order == 0 else tuple(prefix)
        generator = torch.Generator().manual_seed(hash((self.seed, seen)) % 2**40)
        return torch.softmax(self.sharpness * torch.randn(self.vocab, generator=generator, dtype=torch.float64), dim=0)

    def __call__(self, graph: DraftGraph, nodes: Sequence[int]) -> torch.Tensor:
        known = {node for each in self.passes for node in each}
        assert not known & set(nodes), "a node is evaluated once"
        assert all(node == ROOT or graph.parents[node] in (ROOT, *graph.fed) for node in nodes), "its parent before it"
        self.passes.append(list(nodes))
        graph.fed.update((node, node) for node in nodes if node != ROOT)
        return torch.stack([self.row(graph.path_tokens(node)) for node in nodes])


@dataclass
class Drawn:
    """A `draw` by quantiles that are a function of (depth, address); remembers the very tensors it was given."""

    quantile: Callable[[int, int], float]
    laws: list[torch.Tensor] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def __call__(self, laws: torch.Tensor, depth: int, addresses: Sequence[int]) -> list[int]:
        assert len(set(addresses)) == len(addresses) == len(laws)
        tokens = []
        for law, address in zip(laws, addresses, strict=True):
            possible = law.nonzero()[:, 0]
            index = torch.searchsorted(law[possible].cumsum(0), self.quantile(depth, address) * float(law.sum()))
            tokens.append(int(possible[min(int(index), len(possible) - 1)]))
        self.laws.append(laws)
        self.tokens += tokens
        return tokens


@dataclass
class Truncated(Table):
    """Rows whose `zeros` least likely tokens have no mass, as under top-k."""

    zeros: int = 2

    def row(self, prefix: Sequence[int]) -> torch.Tensor:
        row = super().row(prefix)
        row[row.argsort()[: self.zeros]] = 0.0
        return row / row.sum()


def quantiles(seed: int, changed: int | None = None, salt: int = 0) -> Callable[[int, int], float]:
    """Uniform numbers by (depth, address); from depth `changed` on they are others."""

    def quantile(depth: int, address: int) -> float:
        key = (seed, depth, address, salt if changed is not None and depth >= changed else 0)
        return float(torch.rand(1, generator=torch.Generator().manual_seed(hash(key) % 2**40)))

    return quantile


def check(graph: DraftGraph, limits: Limits) -> None:
    """Budget, depth and reach are kept; every FIXED slot once; scores are probabilities that do not grow along a path."""
    tree = graph.tree()
    assert len(graph) <= limits.budget
    assert all(graph.depth(node) == tree.depths[node] <= limits.reach for node in range(len(graph)))
    slots = [(tree.parents[node], tree.tokens[node]) for node in range(len(graph)) if tree.law_row[node] == FIXED]
    assert len(set(slots)) == len(slots)
    for node, parent in enumerate(tree.parents):
        assert 0.0 <= graph.score(node) <= graph.score(parent) * (1 + 1e-9)


def brute_force(table: Table, budget: int, depth: int) -> dict[tuple[int, ...], float]:
    """The best nodes of the whole tree up to `depth`, by path score."""
    level: dict[tuple[int, ...], float] = {(): 1.0}
    scores: dict[tuple[int, ...], float] = {}
    for _ in range(depth):
        level = {(*path, x): s * w for path, s in level.items() for x, w in enumerate(table.row(path).tolist())}
        scores |= level
    return dict(sorted(scores.items(), key=lambda item: -item[1])[:budget])
