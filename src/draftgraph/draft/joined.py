"""Drafts of many requests, asked for together: drafter passes that they wait for at the same time are made as one.

Every `propose` runs in a greenlet of its own. Where it asks for a pass, it waits until all others wait too, or are done; then one
pass is made for all of them. So drafters and structures are plain functions of one request, and need not know of the others. They
only must not hold a lock while they ask for a pass: all run in one thread, and would wait for themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from draftgraph.backends.base import CausalLM, Feed, Scored
from draftgraph.backends.together import forward_each
from draftgraph.draft.base import Drafter
from draftgraph.draft.proposal import propose
from draftgraph.draft.terms import Draft, Limits
from draftgraph.errors import attempt
from draftgraph.request.clock import Clock, shared
from draftgraph.request.state import Request

try:
    import greenlet
except ImportError:  # extra "batch"
    greenlet = None


@dataclass(frozen=True)
class _Asked:
    """A pass that one request waits for."""

    model: CausalLM
    clock: Clock
    feed: Feed


_ASK: ContextVar[Callable[[_Asked], Scored] | None] = ContextVar("ask", default=None)
"""Hands a pass over to who makes it for all; None: whoever wants a pass makes it."""


def drafter_pass(model: CausalLM, clock: Clock, feed: Feed) -> Scored:
    """One drafter pass for one request, made together with those of others where there are any."""
    ask = _ASK.get()
    if ask is None:
        with clock("drafter"):
            return model.forward([feed])[0]
    with clock.away():
        return ask(_Asked(model, clock, feed))


def propose_each(drafter: Drafter, requests: Sequence[Request], limits: Sequence[Limits]) -> list[Draft | Exception]:
    """The draft of every request, or its own error."""
    turns = [partial(_turn, drafter, request, bounds) for request, bounds in zip(requests, limits, strict=True)]
    return [turn() for turn in turns] if greenlet is None or len(turns) < 2 else _joined(turns)


def _turn(drafter: Drafter, request: Request, limits: Limits, ask: Callable[[_Asked], Scored] | None = None) -> Any:
    before = _ASK.set(ask)
    try:
        with request.clock("drafting"):
            return attempt(propose, drafter, request, limits)
    finally:
        _ASK.reset(before)


def _joined(turns: Sequence[Callable[..., Any]]) -> list[Draft | Exception]:
    """Run turns until all of them wait for a pass or are done, make the pass, and so on."""
    running = [greenlet.greenlet(turn) for turn in turns]
    for each in running:
        each.gr_context = copy_context()
    found: list[Any] = [None] * len(turns)
    answers: dict[int, Any] = dict.fromkeys(range(len(turns)), greenlet.getcurrent().switch)
    try:
        while answers:
            asked: dict[int, _Asked] = {}
            for number, answer in answers.items():
                turn = running[number]
                given = (turn.throw if isinstance(answer, Exception) else turn.switch)(answer)
                if turn.dead:
                    found[number] = given
                else:
                    asked[number] = given
            answers = dict(zip(asked, _made(list(asked.values())), strict=True))
    finally:  # after an interrupt: they end as if they were interrupted too
        for each in running:
            each.throw()
    return found


def _made(asked: Sequence[_Asked]) -> list[Scored | Exception]:
    """Passes for all who wait: one for each model."""
    found: dict[int, Scored | Exception] = {}
    for model in {id(each.model): each.model for each in asked}.values():
        numbers = [number for number, each in enumerate(asked) if each.model is model]
        feeds = [asked[number].feed for number in numbers]
        with shared("drafter", [asked[number].clock for number in numbers], [feed.num_rows for feed in feeds]):
            found.update(zip(numbers, forward_each(model, feeds), strict=True))
    return [found[number] for number in range(len(asked))]
