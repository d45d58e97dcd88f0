"""Drafting without a model: continuations looked up in the prompt and the output, or in text that the user predicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from draftgraph.config import Config
from draftgraph.draft.base import Draft, Limits, empty_draft
from draftgraph.draft.edges.sources import TAIL, Sources, allowed_edges
from draftgraph.draft.edges.table import TokenTable
from draftgraph.draft.graph import DraftGraph, Edge, Unroller
from draftgraph.request.state import Request
from draftgraph.types import ROOT, Verdict


class LookupDrafter:
    """n-gram lookup over the request's own text, over `prediction` if given, and over a table of all requests if asked for.

    Every slot is FIXED: no law is claimed.

    prediction  token ids that the output is expected to repeat, with gaps.
    """

    def __init__(self, config: Config, prediction: Sequence[int] = ()) -> None:
        self.config, self.prediction = config, list(prediction)
        self.edges = allowed_edges(config, has_model=False)
        self.table = TokenTable()

    def begin(self, request: Request) -> None:
        request.drafting = Sources.of(self.edges, request.tokens, self.prediction, self.table, has_model=False)

    def propose(self, request: Request, limits: Limits) -> Draft:
        if limits.budget == 0 or limits.reach == 0:
            return empty_draft()
        sources: Sources = request.drafting
        graph = DraftGraph()
        width = 1 if self.config.resolved_structure == "chain" else None
        context = request.tokens[-TAIL:]
        unroller = Unroller(graph, sources.for_draft(graph, context), context, limits.floor, width)
        unroller.grow([ROOT], limits.budget, min(limits.depth or limits.reach, limits.reach), self._first_edge(request))
        return Draft(graph, graph.tree())

    def _first_edge(self, request: Request) -> Edge | None:
        """The first output token is expected to be the first predicted one; later a match is looked up."""
        sources: Sources = request.drafting
        return sources.start() if len(request.tokens) == request.prompt_length else None

    def observe(self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, p: torch.Tensor) -> None:
        sources: Sources = request.drafting
        sources.observe(request, draft.graph, draft.tree, verdict, scores)

    def overlap(self, request: Request) -> None:
        """What is looked up has no law."""

    def end(self, request: Request) -> None:
        """Nothing is held outside the request."""
