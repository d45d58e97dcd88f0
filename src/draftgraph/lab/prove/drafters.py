"""Drafts of a drafter in the place of the prover's own: every draft that it can make behind some texts is enumerated."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from draftgraph.draft.base import Drafter
from draftgraph.draft.proposal import propose
from draftgraph.draft.structures.own import Own
from draftgraph.draft.terms import Limits
from draftgraph.errors import DraftError
from draftgraph.lab.prove.cases import Case
from draftgraph.lab.prove.law import Draw, Laws, Program
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import Noise
from draftgraph.sampling.warp import Warper
from draftgraph.types import TokenTree
from draftgraph.verification.registry import get_rule

TEXTS = ((0,), (0, 1, 0, 1, 2, 0, 1), (2, 2, 1))
"""Committed tokens that are continued, modulo the vocabulary."""
NODES_PER_LEVEL = (1, 2)
"""Budgets, as nodes per level."""


def drafter_cases(drafter: Drafter) -> tuple[Case, ...]:
    """What `prove` enumerates for a drafter: its first round behind some texts, within some budgets."""
    return tuple(_case(drafter, text, nodes) for text in TEXTS for nodes in NODES_PER_LEVEL)


def _case(drafter: Drafter, text: Sequence[int], nodes: int) -> Case:
    def program(depth: int) -> Program:
        return _program(drafter, text, Limits(nodes * depth, depth, depth))

    return Case(f"{drafter.name}, {nodes} per level", f"behind {len(text)} tokens", program)


def _program(drafter: Drafter, text: Sequence[int], limits: Limits) -> Program:
    """The drafter asks its own laws, and the enumerator for its draws; the prover's drafter is not asked."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        request = _request(text, len(q(())), draw, limits.reach)
        drafter.begin(request)
        try:
            return propose(drafter, request, limits).tree
        finally:
            drafter.end(request)

    return program


class _Enumerated(Request):
    """A request whose draws are the enumerator's."""

    def ask(self, draw: Draw) -> None:
        self.enumerator, self.drawn = draw, set[int]()

    def draw(self, law: torch.Tensor, node: int) -> int:
        if node in self.drawn:
            raise DraftError(
                f"node {node} draws twice, and both draws would share their noise; give every draw a number of its own, as "
                "graph.sample does"
            )
        self.drawn.add(node)
        return self.enumerator(law)


def _request(text: Sequence[int], vocab: int, draw: Draw, depth: int) -> Request:
    """A request at temperature 1 that begins with `text`."""
    params = SamplingParams(max_new_tokens=depth + 1, temperature=1.0, seed=0)
    choice = Strategy(get_rule("walk"), Own(), True, "enumerated")
    tokens = [token % vocab for token in text]
    warper = Warper(params, len(tokens), [], torch.device("cpu"))
    request = _Enumerated(
        params,
        choice,
        tokens,
        len(tokens),
        depth + 1,
        frozenset(),
        Noise(0),
        warper,
        Detokenizer(None, tokens, ()),
        vocab,
    )
    request.ask(draw)
    return request
