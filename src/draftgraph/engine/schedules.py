"""Schedules: in which order drafter and target work for a round.

`Sequential` drafts, then verifies, for all requests at once. `Parallel` is PEARL (arXiv 2408.11850): the target scores what is
drafted while the drafter drafts on, for one request at a time. Both give texts the target's law, and greedy text is the same.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, TypeVar

import torch

from draftgraph.backends.base import CausalLM, Feed, Scored
from draftgraph.draft.base import Drafter
from draftgraph.draft.proposal import propose
from draftgraph.draft.terms import Draft, Limits
from draftgraph.engine.config import Config
from draftgraph.engine.lanes import Lanes, Threads
from draftgraph.engine.prefill import Pieces
from draftgraph.engine.round import decode_round, verify
from draftgraph.errors import DraftError, attempt
from draftgraph.request.result import Event
from draftgraph.request.state import Request
from draftgraph.types import TokenTree
from draftgraph.verification.onward import OnwardRule, beginning

T = TypeVar("T")


class Schedule(ABC):
    """now      tells the time in seconds, as the stopwatches of requests count it.
    threads  of torch that each model has for itself; None: as many as there are.
    reads_beside  whether a round may read pieces of other requests' texts.
    """

    reads_beside: ClassVar[bool] = False
    now: Callable[[], float] = staticmethod(time.perf_counter)
    threads: int | None = None

    @abstractmethod
    def decode(
        self,
        requests: Sequence[Request],
        drafter: Drafter,
        target: CausalLM,
        limits: Sequence[Limits],
        pieces: Pieces = (),
    ) -> list[Event | Exception]:
        """One round for every request, as `engine.round.decode_round` says."""


class Sequential(Schedule):
    reads_beside = True

    def decode(
        self,
        requests: Sequence[Request],
        drafter: Drafter,
        target: CausalLM,
        limits: Sequence[Limits],
        pieces: Pieces = (),
    ) -> list[Event | Exception]:
        return decode_round(requests, drafter, target, limits, pieces)


class Parallel(Schedule):
    """lanes  where target and drafter run."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes, self.now, self.threads = lanes, lanes.now, lanes.threads

    @torch.inference_mode()
    def decode(
        self,
        requests: Sequence[Request],
        drafter: Drafter,
        target: CausalLM,
        limits: Sequence[Limits],
        pieces: Pieces = (),
    ) -> list[Event | Exception]:
        """Requests take turns: cores are shared by the two models of one."""
        return [
            attempt(self._decode, request, drafter, target, bounds)
            for request, bounds in zip(requests, limits, strict=True)
        ]

    def _decode(self, request: Request, drafter: Drafter, target: CausalLM, limits: Limits) -> Event:
        """Score what is pending, draft on behind it, and judge it together with the first token that was drafted meanwhile."""
        pending = drafter.pending(request)
        tree = pending.tree
        feed = Feed(request.text, request.tokens[len(request.text) :], tree.tokens, tree.parents)
        further = replace(limits, budget=len(tree) + limits.budget if limits.budget else 0)
        both = self.lanes.run(
            partial(_scored, target, feed, drafter.taps), partial(propose, drafter, request, further), request.clock
        )
        whole, rows = _came(both.drafted), _came(both.scored)
        _refuse_another_path(drafter, tree, whole.tree)
        onward = whole.tree.tokens[len(tree) :]
        draft = Draft(pending.graph, whole.num_evaluations, whole.num_passes, whole.reason, onward, both.overlapped)
        judge = OnwardRule(request.choice.rule, beginning(whole.tree, len(tree) + 1)) if onward else request.choice.rule
        return verify(request, draft, rows, drafter, target, judge)


def make_schedule(config: Config) -> Schedule:
    """The schedule that a config asks for."""
    return Parallel(Threads(max(1, torch.get_num_threads() // 2))) if config.parallel else Sequential()


def _refuse_another_path(drafter: Drafter, pending: TokenTree, whole: TokenTree) -> None:
    """Raise DraftError unless a draft is one path that begins with what was pending: the target has read that."""
    if not whole.is_chain or list(whole.tokens[: len(pending)]) != list(pending.tokens):
        raise DraftError(
            f"the drafter {drafter.name} says that {list(pending.tokens)} are pending and proposed {list(whole.tokens)}; "
            "propose one path that begins with them"
        )


def _came(of: T | Exception) -> T:
    """What came of a call. Raises its error."""
    if isinstance(of, Exception):
        raise of
    return of


def _scored(target: CausalLM, feed: Feed, taps: Sequence[str]) -> Scored:
    (rows,) = target.forward([feed], taps)
    return rows
