"""Chains: one path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.base import Growth, Structure
from draftgraph.draft.structures.branching import grow_branching
from draftgraph.draft.structures.sizes import size
from draftgraph.draft.terms import Limits
from draftgraph.types import ROOT


@dataclass(frozen=True, repr=False)
class Chain(Structure):
    """One path: SAMPLED slots, or the best token of every row.

    length  tokens in every round; None: num_speculative_tokens, the budget, or what pays.

    Raises OptionError for a length that is not an integer >= 1.
    """

    length: int | None = None
    name: ClassVar[str] = "chain"
    width: ClassVar[int | None] = 1

    def __post_init__(self) -> None:
        if self.length is not None:
            object.__setattr__(self, "length", size("length", self.length))

    @property
    def needs_model(self) -> bool:
        return self.length is not None

    @property
    def shape(self) -> tuple[int, ...] | None:
        return None if self.length is None else (1,) * self.length

    @property
    def nodes_per_level(self) -> int:
        return 1

    def limits(self, budget: int, depth: int | None, reach: int) -> Limits:
        """As long as the budget, which is what was asked for."""
        return Limits(budget, depth or budget, reach)

    def grow(self, growth: Growth) -> DraftGraph:
        limits = growth.limits
        if growth.draw is None and self.length is None:
            return _grow_likeliest(growth)
        shape = self.shape or (1,) * min(limits.depth, limits.budget)
        return grow_branching(growth.evaluate, growth.draw, limits, shape)[0]


def _grow_likeliest(growth: Growth) -> DraftGraph:
    """The best token of every row, FIXED, while it may be reached and its row may cost a pass."""
    graph, limits = DraftGraph(), growth.limits
    node, passes = ROOT, 0
    while len(graph) < min(limits.budget, limits.reach):
        if not growth.known(graph, node):
            if passes == limits.depth or graph.score(node) < limits.price_pass(passes):
                break
            passes += 1
        (row,) = graph.remember([node], growth.evaluate(graph, [node]), 1, growth.calibration.expected)
        score = graph.score(node) * row.probs[0]
        if score < limits.floor:
            break
        node = graph.add(node, row.tokens[0], score)
    return graph
