"""Drafting without a model: continuations looked up in the prompt and the output, or in text that the user predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from draftgraph.config import Config
from draftgraph.draft.base import Draft, Limits, empty_draft
from draftgraph.draft.edges import Discounts, TextRows
from draftgraph.draft.graph import DraftGraph, Edge, EdgeSource, Unroller
from draftgraph.draft.model import learn_edges, shared_rows
from draftgraph.request import Request
from draftgraph.types import ROOT, Verdict


@dataclass
class _State:
    own: TextRows
    predicted: TextRows | None
    discounts: Discounts = field(default_factory=Discounts)


class LookupDrafter:
    """n-gram lookup over the request's own text, and over `prediction` if given. Every slot is FIXED: no law is claimed.

    prediction  token ids that the output is expected to repeat, with gaps.
    """

    def __init__(self, config: Config, prediction: Sequence[int] = ()) -> None:
        self.config, self.prediction = config, list(prediction)

    def begin(self, request: Request) -> None:
        discounts = Discounts()
        own = TextRows(discounts)
        own.extend(request.tokens)
        predicted = None
        if self.prediction:
            predicted = TextRows(discounts, "text")
            predicted.extend(self.prediction)
        request.drafting = _State(own, predicted, discounts)

    def propose(self, request: Request, limits: Limits) -> Draft:
        if limits.budget == 0 or limits.reach == 0:
            return empty_draft()
        state: _State = request.drafting
        graph = DraftGraph()
        sources: list[EdgeSource] = [state.own] if state.predicted is None else [state.predicted, state.own]
        width = 1 if self.config.resolved_structure == "chain" else None
        unroller = Unroller(graph, sources, request.tokens[-8:], limits.floor, width)
        unroller.grow([ROOT], limits.budget, min(limits.depth, limits.reach), self._first_edge(request))
        return Draft(graph, graph.tree())

    def _first_edge(self, request: Request) -> Edge | None:
        """The first output token is expected to be the first predicted one; later a match is looked up."""
        predicted: TextRows | None = request.drafting.predicted
        return predicted.start() if predicted is not None and len(request.tokens) == request.prompt_length else None

    def observe(self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, p: torch.Tensor) -> None:
        state: _State = request.drafting
        tokens = [*(draft.tree.tokens[node] for node in verdict.path), verdict.token]
        learn_edges(state.discounts, draft.graph, verdict, tokens)
        state.own.extend(tokens, shared_rows(scores, verdict))

    def overlap(self, request: Request) -> None:
        """What is looked up has no law."""

    def end(self, request: Request) -> None:
        """Nothing is held outside the request."""
