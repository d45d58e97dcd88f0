"""What a drafter is: begin, propose, observe, end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from draftgraph.draft.graph import DraftGraph
from draftgraph.errors import DrafterError, DraftgraphError
from draftgraph.types import TokenTree, Verdict

if TYPE_CHECKING:
    from draftgraph.request.state import Request

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
    price_passes  per pass, the least sum of the scores that it would go on from for it to be worth making; none without prices.
    reason  why so much: "draft", "copies", "plain", "probe" or "fixed", a colon, and the figures.
    spread  True: an equal share of the budget per level ("exact size"); False: the budget is a cap and prices decide.
    """

    budget: int
    depth: int
    reach: int
    floor: float = 0.0
    price_passes: Sequence[float] = ()
    spread: bool = True
    reason: str = "fixed: asked for"

    def price_pass(self, number: int) -> float:
        """What the scores behind pass `number` (0 is the first) must sum up to."""
        return self.price_passes[number] if number < len(self.price_passes) else 0.0


@dataclass(frozen=True)
class Draft:
    """What a drafter proposes for one request; `reason` is that of its limits."""

    graph: DraftGraph
    tree: TokenTree
    num_evaluations: int = 0
    num_passes: int = 0
    reason: str = ""


class Drafter(Protocol):
    """Proposes drafts; owns whatever state it needs per request."""

    def begin(self, request: Request) -> None: ...

    def propose(self, request: Request, limits: Limits) -> Draft: ...

    def observe(self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, p: torch.Tensor) -> None:
        """The round is verified: which path was accepted, and the target's rows.

        scores  f[N + 1, V] the target's logits before the temperature; p  f[N + 1, V] its laws.
        """
        ...

    def overlap(self, request: Request) -> Overlap | None:
        """What drafter and target had in common so far; None if the drafter states no laws."""
        ...

    def end(self, request: Request) -> None: ...


def propose(drafter: Drafter, request: Request, limits: Limits) -> Draft:
    """What a drafter proposes. Raises DrafterError if it fails."""
    try:
        return replace(drafter.propose(request, limits), reason=limits.reason)
    except DraftgraphError:
        raise
    except Exception as error:
        raise DrafterError(f"the drafter failed while proposing: {type(error).__name__}: {error}") from error


def empty_draft() -> Draft:
    graph = DraftGraph()
    return Draft(graph, graph.tree())
