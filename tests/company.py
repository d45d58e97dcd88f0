"""Requests that are decoded in the same rounds, and join and leave as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import draftgraph as dg
from draftgraph.budget.limits import Windows, limits
from draftgraph.draft.terms import Limits
from draftgraph.engine.prefill import prefill
from draftgraph.engine.round import decode_round
from draftgraph.engine.strategy import reconsider
from draftgraph.request.result import Event
from draftgraph.request.state import Request


def variant(engine: dg.Engine, **options: Any) -> dg.Engine:
    """An engine with the same models and the same drafter, and options of its own."""
    config = engine.config.with_options(**options)
    return dg.Engine(engine.target, engine.drafter, config, engine.tokenizer, engine.eos, engine.generation_config)


@dataclass
class Guest:
    """A request with the engine that it is meant for."""

    engine: dg.Engine
    request: Request

    @classmethod
    def of(cls, engine: dg.Engine, prompt: list[int], **options: Any) -> Guest:
        request = engine._request(prompt, dg.SamplingParams(**options))
        request.text = engine.target.open(len(prompt) + 8)
        request.begun = True
        engine.drafter.begin(request)
        return cls(engine, request)

    @property
    def running(self) -> bool:
        return self.request.finish_reason is None

    def plan(self) -> Limits:
        engine, request = self.engine, self.request
        asked = engine.config.budget, engine.config.num_speculative_tokens
        return limits(*asked, request, Windows.of(engine.target, engine.drafter))

    def settle(self) -> None:
        """What the engine does after a round."""
        engine, request = self.engine, self.request
        seen = engine.drafter.overlap(request)
        request.choice = reconsider(request.choice, engine.config, request.params.temperature, seen)
        if not self.running:
            engine._free(request)


def round_of(guests: Sequence[Guest]) -> list[Event]:
    """One round of running requests."""
    engine = guests[0].engine
    bounds = [guest.plan() for guest in guests]
    for guest, its in zip(guests, bounds, strict=True):
        while prefill(guest.request, engine.drafter, engine.target, its):
            pass
    events = []
    happened = decode_round([guest.request for guest in guests], engine.drafter, engine.target, bounds)
    for guest, each in zip(guests, happened, strict=True):
        if isinstance(each, Exception):
            raise each
        guest.settle()
        events.append(each)
    return events


Arrive = Callable[[], Guest]


def together(
    arriving: Sequence[Arrive], choose: Callable[[int], int], after: Callable[[list[Guest]], None]
) -> list[list[int]]:
    """Decode requests that join and pause at random; their outputs, in the order of `arriving`. after  each round."""
    waiting, guests = list(arriving), [arrive() for arrive in arriving[:1]]
    del waiting[:1]
    while waiting or any(guest.running for guest in guests):
        while waiting and choose(2):
            guests.append(waiting.pop(0)())
        running = [guest for guest in guests if guest.running]
        some = [guest for guest in running if choose(4)]
        if some:
            round_of(some)
            after(guests)
    return [guest.request.output for guest in guests]
