"""Drafting without a model: continuations looked up in the prompt and the output, or in text that the user predicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from draftgraph.draft.base import Drafter
from draftgraph.draft.edges.sources import TAIL, Sources, kept
from draftgraph.draft.edges.table import TokenTable
from draftgraph.draft.graph import DraftGraph, Edge
from draftgraph.draft.terms import Draft, Limits
from draftgraph.draft.unroll import Unroller
from draftgraph.draft.whole_sizes import cut
from draftgraph.request.state import Request
from draftgraph.sampling.laws import TargetLaws
from draftgraph.types import ROOT, Verdict


class LookupDrafter(Drafter):
    """n-gram lookup over the request's own text, over `prediction` if given, and over a table of all requests if asked for.

    Every slot is FIXED: no law is claimed.

    edges       names of the edge sources to look into, e.g. ("own", "context").
    prediction  token ids that the output is expected to repeat, with gaps; a request may have others.
    """

    draws = ("fixed",)
    structure = None
    heeds_prices = True
    trusted = True

    def __init__(self, edges: Sequence[str], prediction: Sequence[int] = ()) -> None:
        self.edges, self.prediction = tuple(edges), list(prediction)
        self.table = TokenTable()
        self.identity = f"lookup {' '.join(self.edges)}"

    @property
    def name(self) -> str:
        return "text already seen"

    def begin(self, request: Request) -> None:
        request.drafting = self.sources(request)

    def sources(self, request: Request) -> Sources:
        """Where a request that begins may copy from."""
        names = kept(("text", *self.edges) if request.prediction else self.edges, request)
        prediction = request.prediction or self.prediction
        return Sources.of(names, request.tokens, prediction, self.table, has_model=False)

    def propose(self, request: Request, limits: Limits) -> Draft:
        return Draft(cut(copied(request, request.drafting, limits), limits))

    def verified(
        self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, laws: TargetLaws
    ) -> None:
        sources: Sources = request.drafting
        sources.observe(request, draft, verdict, scores)

    def fresh(self) -> LookupDrafter:
        """Without the predicted text, which belongs to the user's own requests."""
        return LookupDrafter(self.edges)


class Copies:
    """A draft of copies alone, the likeliest ones, and what it promises before it is made."""

    def __init__(self, request: Request, sources: Sources, limits: Limits) -> None:
        self.graph, context = DraftGraph(), request.tokens[-TAIL:]
        copies, self._width = sources.for_draft(self.graph, context), request.choice.structure.width
        self._floor, self._depth = limits.floor, min(limits.depth or limits.reach, limits.reach)
        self._unroller = Unroller(self.graph, copies, context, limits.floor, self._width, request.warper.refuses)
        self._first = _first_edge(request, sources)

    def promise(self, most: int) -> list[float]:
        """The scores of at most `most` levels, if the run that begins behind the text goes on. It takes one look, no draft."""
        edge = self._first = self._first or self._unroller.beginning()
        if edge is None or edge.discount * edge.row.probs[0] < self._floor:
            return []
        score = edge.discount * sum(edge.row.probs[: self._width])
        return [score * edge.following**level for level in range(min(most, self._depth))]

    def grow(self, budget: int) -> DraftGraph:
        """The draft, of so many nodes at most."""
        self._unroller.grow([ROOT], budget, self._depth, self._first)
        return self.graph


def copied(request: Request, sources: Sources, limits: Limits) -> DraftGraph:
    """A draft of copies alone, the likeliest ones."""
    return Copies(request, sources, limits).grow(limits.budget)


def _first_edge(request: Request, sources: Sources) -> Edge | None:
    """The first output token is expected to be the first predicted one; later a match is looked up."""
    return sources.start() if len(request.tokens) == request.prompt_length else None
