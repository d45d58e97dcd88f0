"""Chains: one path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.base import Growth, Structure
from draftgraph.draft.structures.sizes import size
from draftgraph.draft.terms import Limits
from draftgraph.types import ROOT

LEAST_MASS = 1e-6
"""A node that is reached less often than this is taken for one that is reached so often."""


@dataclass(frozen=True, repr=False)
class Chain(Structure):
    """One path: SAMPLED slots, or the best token of every row.

    length  tokens in every round; None: num_speculative_tokens, the budget, or what pays.

    Raises OptionError for a length that is not an integer >= 1.
    """

    length: int | None = None
    name: ClassVar[str] = "chain"
    copied: ClassVar[bool] = True
    width: ClassVar[int | None] = 1

    def __post_init__(self) -> None:
        if self.length is not None:
            object.__setattr__(self, "length", size("length", self.length))

    @property
    def needs_model(self) -> bool:
        return self.length is not None

    @property
    def narrows(self) -> bool:
        return True

    @property
    def one_path(self) -> bool:
        return True

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
        return grow_chain(growth, growth.limits.budget if self.length is None else self.length)


def grow_chain(growth: Growth, length: int) -> DraftGraph:
    """One path of up to `length` tokens, token by token: a draw from every row, or its best token, FIXED.

    It ends where the next node is too unlikely to be reached for the price of a pass, or for `limits.floor`. Both are known
    before the token is drawn.
    """
    graph, limits, draw = DraftGraph(across=False), growth.limits, growth.draw
    node, score, passes = ROOT, 1.0, 0
    for depth in range(1, min(length, limits.budget, limits.reach) + 1):
        if not growth.known(graph, node):
            if passes == limits.depth or score < limits.price_pass(passes):
                break
            passes += 1
        law = growth.evaluate(graph, [node])
        if draw is None:
            row = graph.remember_best(node, law, growth.calibration.expected)
            score *= row.probs[0]
        else:
            row = graph.remember_best(node, law)
            score *= growth.calibration.kept(row.probs[0], 1.0 / max(score, LEAST_MASS))
        if score < limits.floor:
            break
        if draw is None:
            node = graph.add(node, row.tokens[0], score)
        else:
            (token,) = draw(law, depth, (0,))
            node = graph.add(node, token, score, graph.add_laws(law))
    return graph
