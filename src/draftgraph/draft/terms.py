"""What drafting talks of: passes, draws, the limits of a round, and a draft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from draftgraph.draft.graph import DraftGraph
from draftgraph.types import TokenTree

Evaluate = Callable[[DraftGraph, Sequence[int]], torch.Tensor]
"""One drafter pass: evaluate(graph, nodes) -> rows f[len(nodes), V] of the laws (or candidate weights) behind those nodes.

ROOT stands for the committed text. Every node is evaluated at most once, its parent before it.
"""

Known = Callable[[DraftGraph, int], bool]
"""known(graph, node): whether the row behind a node is at hand, so that asking for it costs no drafter pass."""

Draw = Callable[[torch.Tensor, int, Sequence[int]], list[int]]
"""draw(laws f[k, V], depth, addresses) -> k tokens, one from each row; `addresses` are distinct within the layer."""


@dataclass(frozen=True)
class Overlap:
    """Σ_x min(p(x), q(x)) where both laws are known without selection: at the root of every round."""

    mean: float
    rounds: int


@dataclass(frozen=True)
class Limits:
    """What a round may spend.

    budget  nodes that the target verifies.
    depth   drafter passes, and the depth to which nodes are drafted; 0: a draft of copies alone, where there are edge sources.
    reach   depth that no node may exceed (what is left of the context window and of the output length).
    floor   least score of a slot worth verifying.
    price_passes  pass i is made only if the scores of the nodes that it would read sum to price_passes[i]; () makes every pass.
    reason  why so much: "draft", "copies", "plain", "probe" or "fixed", a colon, and the figures.
    spread  True: an equal share of the budget per level ("exact size"); False: the budget is a cap and prices decide.
    narrow  True: one path, from a structure that `narrows`.
    seconds  of a round that verifies 0, 1, … nodes: a draft of copies alone is cut to the size that pays best. () keeps all.
    worth   expected accepted tokens of a node by its score, which are weighed against `seconds`.
    path    None: the target reads a draft as one sequence. Else it reads every path as a sequence of its own: a branch takes rows
            for its whole path, and so many seconds more.
    instead  the limits of a draft of copies alone, which takes the place of this one where it is expected to give more tokens per
            second; None: there is none. Whether it does must not look at tokens that are drawn in this round.
    rate    tokens per second that this one is expected to give where copies alone promise so many tokens.
    """

    budget: int
    depth: int
    reach: int
    floor: float = 0.0
    price_passes: Sequence[float] = ()
    spread: bool = True
    narrow: bool = False
    reason: str = "fixed: asked for"
    seconds: Sequence[float] = ()
    worth: Callable[[float], float] = float
    path: float | None = None
    instead: Limits | None = None
    rate: Callable[[float], float] = float

    @property
    def most_nodes(self) -> int:
        """Nodes that a draft of this round has at most, whichever kind it is of."""
        return self.budget if self.instead is None else max(self.budget, self.instead.budget)

    def within(self, reach: int) -> Limits:
        """The same for drafts that are no deeper than `reach`, of either kind."""
        other = None if self.instead is None else self.instead.within(min(reach, self.instead.reach))
        return self.but(reach=reach, instead=other)

    def but(self, **changes: Any) -> Limits:
        """The same with these fields changed. `dataclasses.replace` takes ten times as long, and rounds wait for it."""
        other = object.__new__(Limits)
        other.__dict__.update(self.__dict__, **changes)
        return other

    def price_pass(self, number: int) -> float:
        """What the scores behind pass `number` (0 is the first) must sum up to."""
        return self.price_passes[number] if number < len(self.price_passes) else 0.0


@dataclass
class Draft:
    """What a drafter proposes for one request.

    graph            the nodes.
    num_evaluations  rows that a model computed for the draft; 0 without a model.
    num_passes       forward passes in which it computed them.
    reason           why so much was drafted; where it is empty the engine writes that of the limits.
    onward           tokens that were drafted behind it while the target scored it.
    overlapped       seconds of the target's pass in which that happened.
    rival            tokens that copies alone were expected to give in its place; 1 where there were none, as in plain decoding.
    unasked          whether the drafter was not asked, for the round could not verify anything.
    """

    graph: DraftGraph
    num_evaluations: int = 0
    num_passes: int = 0
    reason: str = ""
    onward: Sequence[int] = field(default_factory=list)
    overlapped: float = 0.0
    rival: float = 1.0
    unasked: bool = False

    @cached_property
    def tree(self) -> TokenTree:
        """The draft as the target sees it. A graph that has been proposed no longer changes."""
        return self.graph.tree()
