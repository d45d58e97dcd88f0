"""One request on its way: begun, planned, read piece by piece, decoded round by round, freed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from draftgraph.backends.base import CausalLM
from draftgraph.budget.costs import MOST_DRAFTED, Costs
from draftgraph.budget.limits import Windows, limits
from draftgraph.draft.base import Drafter
from draftgraph.draft.proposal import failing
from draftgraph.draft.terms import Limits
from draftgraph.engine.config import Config
from draftgraph.engine.prefill import Piece, next_piece, prefill
from draftgraph.engine.results import result_of
from draftgraph.engine.schedules import Schedule, Sequential
from draftgraph.engine.strategy import plan, reconsider
from draftgraph.errors import DraftgraphError
from draftgraph.request.result import Event, Result
from draftgraph.request.state import Request


class Course:
    """What happens to one request, whoever decides when.

    config  how this request drafts and verifies: the engine's, changed by options of the call.
    costs   of rounds, for the automatic budget. They are asked for when the request begins: measuring them takes seconds,
            for which no event loop should wait.
    schedule  in which order drafter and target work.
    """

    def __init__(
        self,
        request: Request,
        config: Config,
        drafter: Drafter,
        target: CausalLM,
        tokenizer: Any | None,
        costs: Callable[[], Costs],
        schedule: Schedule | None = None,
    ) -> None:
        self.request, self.config = request, config
        request.drafts = config.budget != 0
        self.drafter, self.target, self.tokenizer = drafter, target, tokenizer
        self._costs, self.schedule = costs, schedule or Sequential()
        copies = drafter.copies(config.resolved_structure)
        self._windows = replace(Windows.of(target, drafter), copies=copies)
        self._planned: Limits | None = None

    @property
    def unread(self) -> int:
        """Tokens of the text that the target has not read; one where the request is decoding."""
        return len(self.request.tokens) - len(self.request.text)

    @property
    def nodes(self) -> int:
        """Nodes that the next round verifies at most; the automatic budget may decide in the round, beside others."""
        return self.plan().budget if self.request.plan is None else self.most_nodes

    @property
    def most_nodes(self) -> int:
        """Nodes that a round of this request verifies at most."""
        whole = self.request.choice.structure.whole(self.request.limit)
        if self.config.budget == "auto":
            return MOST_DRAFTED if whole is None else whole.budget
        return int(self.config.budget)

    def begin(self) -> None:
        """Open its caches; nothing is read yet."""
        self.request.plan = plan(self.config, self.drafter, self.request.params.temperature, self._costs)
        self.request.text = self.target.open(len(self.request.tokens) + MOST_DRAFTED)
        self.request.begun = True
        with failing(self.drafter, "beginning"):
            self.drafter.begin(self.request)

    def plan(self) -> Limits:
        """The limits of the next round. They are decided once, however often they are asked for before it."""
        if self._planned is None:
            asked = self.config.budget, self.config.num_speculative_tokens
            with self.request.clock("drafting"):
                self._planned = limits(*asked, self.request, self._windows)
        return self._planned

    def next_piece(self) -> Piece | None:
        """A piece of a text that is too long for the next round, to be read in a round of others."""
        return next_piece(self.request, self.target) if self.schedule.reads_beside else None

    def read_piece(self) -> bool:
        """Read one piece of a text that is too long for the next round. Whether there was one."""
        return prefill(self.request, self.drafter, self.target, self.plan())

    def look_back(self) -> None:
        """A round is over: what it has shown shapes the next one."""
        self._planned = None
        if self.request.choice.settled:
            return
        with failing(self.drafter, "counting its overlap"):
            seen = self.drafter.overlap(self.request)
        self.request.choice = reconsider(self.request.choice, self.config, self.request.params.temperature, seen)

    def free(self) -> None:
        """Let go of what the request holds; a second time, of what an interrupt has left."""
        try:
            self.end_drafting()
        finally:
            self.target.close(self.request.text)

    def end_drafting(self) -> None:
        """Tell the drafter that the request is over, once."""
        request = self.request
        if not request.begun:
            return
        try:
            with failing(self.drafter, "ending"):
                self.drafter.end(request)
        except DraftgraphError:
            request.begun, request.drafting = False, None  # it was asked, and has failed
            raise
        request.begun, request.drafting = False, None

    def result(self) -> Result:
        """What the request has produced so far; its `finish_reason` is None until it is finished."""
        return result_of(self.request, self.target, self.tokenizer)

    def alone(self) -> Generator[Event | None, None, None]:
        """All of it, a step at a time: the event of a round, or None after a piece of the text was read."""
        try:
            self.begin()
            while self.request.finish_reason is None:
                while self.read_piece():
                    yield None
                (happened,) = self.schedule.decode([self.request], self.drafter, self.target, [self.plan()])
                if isinstance(happened, Exception):
                    raise happened
                yield happened
                self.look_back()
        finally:
            self.free()
