"""Drafts of many requests, asked for together."""

from __future__ import annotations

from collections.abc import Sequence

from draftgraph.draft.base import Drafter
from draftgraph.draft.proposal import propose
from draftgraph.draft.terms import Draft, Limits
from draftgraph.errors import attempt
from draftgraph.request.state import Request


def propose_each(drafter: Drafter, requests: Sequence[Request], limits: Sequence[Limits]) -> list[Draft | Exception]:
    """The draft of every request, or its own error."""
    return [attempt(_propose, drafter, request, bounds) for request, bounds in zip(requests, limits, strict=True)]


def _propose(drafter: Drafter, request: Request, limits: Limits) -> Draft:
    with request.clock("drafting"):
        return propose(drafter, request, limits)
