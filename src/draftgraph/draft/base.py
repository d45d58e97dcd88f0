"""What a drafter is: begin, propose, observe, end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from draftgraph.choice import Overlap
from draftgraph.draft.graph import DraftGraph
from draftgraph.errors import DrafterError, DraftgraphError
from draftgraph.types import TokenTree, Verdict

if TYPE_CHECKING:
    from draftgraph.request import Request

Evaluate = Callable[[DraftGraph, Sequence[int]], torch.Tensor]
"""One drafter pass: evaluate(graph, nodes) -> rows f[len(nodes), V] of the laws (or candidate weights) behind those nodes.

ROOT stands for the committed text. Every node is evaluated at most once, its parent before it.
"""

Known = Callable[[DraftGraph, int], bool]
"""known(graph, node): whether the row behind a node is at hand, so that asking for it costs no drafter pass."""

Draw = Callable[[torch.Tensor, int, Sequence[int]], list[int]]
"""draw(laws f[k, V], depth, addresses) -> k tokens, one from each row; `addresses` are distinct within the layer."""


@dataclass(frozen=True)
class Limits:
    """What a round may spend.

    budget  nodes that the target verifies.
    depth   drafter passes, and the depth to which nodes are drafted; 0: a draft of copies alone, where there are edge sources.
    reach   depth that no node may exceed (what is left of the context window and of the output length).
    floor   least estimated mass of a slot worth verifying; price_pass, of a drafter pass worth making.
    spread  True: an equal share of the budget per level ("exact size"); False: the budget is a cap and prices decide.
    """

    budget: int
    depth: int
    reach: int
    floor: float = 0.0
    price_pass: float = 0.0
    spread: bool = True


@dataclass(frozen=True)
class Draft:
    """What a drafter proposes for one request."""

    graph: DraftGraph
    tree: TokenTree
    num_evaluations: int = 0
    num_passes: int = 0


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
        return drafter.propose(request, limits)
    except DraftgraphError:
        raise
    except Exception as error:
        raise DrafterError(f"the drafter failed while proposing: {type(error).__name__}: {error}") from error


def empty_draft() -> Draft:
    graph = DraftGraph()
    return Draft(graph, graph.tree())
