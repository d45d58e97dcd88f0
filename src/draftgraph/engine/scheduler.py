"""Which requests take part in the next step: they join and leave between rounds. One thread drives it, step by step.

A step frees nothing that is needed and starves nobody: requests begin in the order in which they came; of those that still
read their prompts one piece is read, in turn; all others decode one round together, in the same pass where the target can. The
pieces of a text do not depend on who else is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from draftgraph.backends.base import CausalLM
from draftgraph.draft.base import Drafter
from draftgraph.engine.claims import Claim, is_safe
from draftgraph.engine.course import Course
from draftgraph.engine.prefill import Piece
from draftgraph.engine.prefixes import Prefixes
from draftgraph.engine.schedules import Schedule, Sequential
from draftgraph.engine.serving import Serving, cell_bytes
from draftgraph.errors import OptionError, QueueFullError
from draftgraph.request.result import Event

HEADROOM_CELLS = 32
"""Cells that stay free per running request when another one begins, so that it need not wait at once."""


@dataclass(frozen=True)
class Load:
    """What a scheduler has to do.

    running, waiting  requests that have begun, and that have not.
    cells_used, cells_limit  tokens that running requests have cached, drafts included, and tokens that may be cached at once.
                             What texts share counts for each of them.
    cells_kept  tokens of finished texts that stay cached until their cells are needed.
    cell_bytes  bytes that a cached token takes, the drafter's cache included: a request takes so many per token of its text.
    """

    running: int
    waiting: int
    cells_used: int
    cells_limit: int
    cells_kept: int
    cell_bytes: int


@dataclass(eq=False)
class Ticket:
    """A request in a scheduler.

    most      cells that it may hold at most. reserved  those of its prompt and first draft, which it counts with from the
              beginning.
    reading   whether it has not decoded yet. alone  whether it waits for nobody to read what both begin with.
    """

    course: Course
    most: int
    reserved: int
    reading: bool = True
    alone: bool = False

    @property
    def used(self) -> int:
        """Cells that it holds."""
        text = self.course.request.text
        return len(text) - text.forgotten + len(text.nodes)

    @property
    def claim(self) -> Claim:
        """What it counts with."""
        held = max(self.used, self.reserved) if self.reading else self.used
        return Claim(held, max(held, self.most))


Outcome = Event | BaseException
"""What a step brings to a request. After an event with a `finish_reason`, and after an error, the request is over."""


@dataclass
class Scheduler:
    """waiting  requests that have not begun, in order. running  those that have; `_turns` those of them that still read.

    schedule  in which order drafter and target work.
    """

    target: CausalLM
    drafter: Drafter
    serving: Serving
    schedule: Schedule = field(default_factory=Sequential)
    cells_limit: int = field(init=False)
    prefixes: Prefixes = field(init=False)
    waiting: deque[Ticket] = field(default_factory=deque)
    running: list[Ticket] = field(default_factory=list)
    _turns: deque[Ticket] = field(default_factory=deque)
    _last_read: Ticket | None = None

    def __post_init__(self) -> None:
        self.cells_limit = self.serving.cells(self.target, self.drafter)
        self.prefixes = Prefixes(self.target, self.drafter, self.cells_limit)

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def load(self) -> Load:
        """May be asked by any thread."""
        used = sum(ticket.used for ticket in list(self.running))
        bytes_each = cell_bytes(self.target, self.drafter)
        return Load(len(self.running), len(self.waiting), used, self.cells_limit, self.prefixes.cells, bytes_each)

    def add(self, course: Course, queue: int | None = None) -> Ticket:
        """Let a request wait for its turn. May be called by any thread.

        queue  requests that may wait beside those that have a place; None: any number.

        Raises OptionError for a request that can never fit, QueueFullError where there is no place.
        """
        request = course.request
        nodes = course.most_nodes
        ticket = Ticket(course, len(request.tokens) + request.limit + nodes, len(request.tokens) + nodes)
        if ticket.most > self.cells_limit:
            largest = "budget" if nodes > request.limit else "max_new_tokens"
            raise OptionError(
                f"the request may grow to {ticket.most} cells (a prompt of {len(request.tokens)} tokens, {request.limit} new "
                f"ones, {nodes} drafted), and there is memory for {self.cells_limit}; write a smaller {largest}, "
                "or Engine.from_pretrained(..., memory=...) with more bytes (--memory-mib of a server)"
            )
        if queue is not None and len(self.waiting) + len(self.running) >= self.serving.max_batch + queue:
            raise QueueFullError(
                f"{len(self.running) + len(self.waiting)} requests are there: {self.serving.max_batch} may run at once, and "
                f"{queue} may wait; ask again later, or write Engine.from_pretrained(..., queue=...) with more"
            )
        self.waiting.append(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Let go of a request, and of its cells. To be called between steps; what is over stays so."""
        if ticket in self.waiting:
            self.waiting.remove(ticket)
        elif ticket in self.running:
            self._end(ticket)

    def close(self) -> None:
        """Let go of all requests, also after an interrupt."""
        self.waiting.clear()
        self.prefixes.close()
        errors = [error for ticket in list(self.running) for error in self._tried(ticket)]
        if errors:
            raise errors[0]

    def step(self) -> list[tuple[Ticket, Outcome]]:
        """One round of all requests that can take part, and one piece of a prompt. Returns what came of it, in order."""
        outcomes = list(self._begin())
        joining, pieces = self._read(outcomes)
        decoding = [ticket for ticket in self.running if not ticket.reading]
        deciding = [ticket for ticket in decoding if not self._reads_again(ticket, outcomes)] + joining
        outcomes += self._decode(self._fitting(self._planned(deciding, outcomes)), pieces)
        return outcomes

    def _begin(self) -> Iterator[tuple[Ticket, Outcome]]:
        """Requests that fit begin, the first ones first; nobody overtakes."""
        while self.waiting and len(self.running) < self.serving.max_batch and self._has_room(self.waiting[0]):
            ticket = self.waiting.popleft()
            self.running.append(ticket)
            self._turns.append(ticket)
            try:
                ticket.course.begin()
            except Exception as error:
                yield from self._fail(ticket, error)

    def _has_room(self, ticket: Ticket) -> bool:
        claims = [*(other.claim for other in self.running), ticket.claim]
        headroom = HEADROOM_CELLS * len(self.running)
        while not (self._free(claims) >= headroom and is_safe(self._free(claims), claims)):
            if not self.prefixes.give_way():
                return False
        return True

    def _free(self, claims: Iterable[Claim]) -> int:
        """Cells that nobody holds."""
        return self.cells_limit - self.prefixes.cells - sum(claim.held for claim in claims)

    def _read(self, outcomes: list[tuple[Ticket, Outcome]]) -> tuple[list[Ticket], dict[Ticket, Piece]]:
        """Read one piece of one prompt, in turn. Returns the requests whose rest a round can read, and a piece if it can.

        Their rests together are no more than a piece, so that nobody who decodes has to wait for long.
        """
        pieces: dict[Ticket, Piece] = {}
        self._favour_oldest()
        joining: list[Ticket] = []
        rows = self.target.most_rows
        for _ in range(len(self._turns)):
            ticket = self._turns[0]
            try:
                if not self._begins(ticket):
                    self._turns.rotate(-1)
                    continue
                unread = ticket.course.unread
                if joining and unread > rows:
                    break
                self._turns.popleft()
                piece = ticket.course.next_piece()
                was_piece = piece is not None or ticket.course.read_piece()
            except Exception as error:
                outcomes += self._fail(ticket, error)
                break
            self._last_read = ticket
            if was_piece:
                self._turns.append(ticket)
                pieces |= {} if piece is None else {ticket: piece}
                break
            joining.append(ticket)
            rows -= unread
        return joining, pieces

    def _reads_again(self, ticket: Ticket, outcomes: list[tuple[Ticket, Outcome]]) -> bool:
        """Whether a text that was decoding takes a turn at reading: where target or drafter read a long text otherwise."""
        try:
            was_piece = ticket.course.read_piece()
        except Exception as error:
            outcomes += self._fail(ticket, error)
            return True
        if was_piece:
            ticket.reading = True
            self._turns.append(ticket)
        return was_piece

    def _begins(self, ticket: Ticket) -> bool:
        """Whether a request has found whom to share its beginning with, or reads on its own."""
        if ticket.alone or len(ticket.course.request.text):
            return True
        older = [other.course.request for other in self.running[: self.running.index(ticket)]]
        ticket.alone = self.prefixes.begin(ticket.course.request, older)
        return ticket.alone

    def _favour_oldest(self) -> None:
        """Every other piece is one of the request that has been reading for longest, whoever else has come since."""
        oldest = next((ticket for ticket in self.running if ticket.reading), None)
        if oldest is not None and oldest is not self._last_read:
            self._turns.remove(oldest)
            self._turns.appendleft(oldest)

    def _planned(self, tickets: Sequence[Ticket], outcomes: list[tuple[Ticket, Outcome]]) -> list[Ticket]:
        """The requests that know what their round may spend; a structure of the user's own may fail to say."""
        planned = []
        for ticket in tickets:
            try:
                ticket.course.plan()
                planned.append(ticket)
            except Exception as error:
                outcomes += self._fail(ticket, error)
        return planned

    def _fitting(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """The requests of a round; those who would take cells that others need to come to their end sit it out."""
        claims = {ticket: ticket.claim for ticket in self.running}
        grown = {ticket: self._grown(ticket, claims[ticket]) for ticket in tickets}
        all_grown = [*(claims | grown).values()]
        while not is_safe(self._free(all_grown), all_grown):
            if not self.prefixes.give_way():
                break
        else:
            return list(tickets)
        taking: list[Ticket] = []
        for ticket in tickets:
            tried = claims | {ticket: grown[ticket]}
            if is_safe(self._free(tried.values()), [*tried.values()]):
                claims = tried
                taking.append(ticket)
            elif ticket.reading:
                self._turns.appendleft(ticket)
                for other in self._turns:  # nobody may wait for one that waits
                    other.alone = True
        return taking

    def _grown(self, ticket: Ticket, claim: Claim) -> Claim:
        """What a request counts with during a round."""
        held = max(claim.held, ticket.used + ticket.course.unread + ticket.course.nodes)
        return Claim(held, max(held, claim.most))

    def _decode(self, tickets: Sequence[Ticket], pieces: Mapping[Ticket, Piece]) -> Iterator[tuple[Ticket, Outcome]]:
        if not tickets and not pieces:
            return
        requests = [ticket.course.request for ticket in tickets]
        limits = [ticket.course.plan() for ticket in tickets]
        happened = self.schedule.decode(requests, self.drafter, self.target, limits, [*pieces.values()])
        for ticket, outcome in zip(tickets, happened, strict=True):
            ticket.reading = False
            yield from self._fail(ticket, outcome) if isinstance(outcome, Exception) else self._go_on(ticket, outcome)
        for ticket, piece in pieces.items():
            if piece.error is not None:
                yield from self._fail(ticket, piece.error)

    def _go_on(self, ticket: Ticket, event: Event) -> Iterator[tuple[Ticket, Outcome]]:
        yield ticket, event
        try:
            ticket.course.look_back()
            if event.finish_reason is not None:
                self.prefixes.keep(ticket.course.request)
                self._end(ticket)
        except Exception as error:
            yield from self._fail(ticket, error)

    def _fail(self, ticket: Ticket, error: Exception) -> Iterator[tuple[Ticket, Outcome]]:
        """Let go of a request after an error, which is the one that is told."""
        self._tried(ticket)
        yield ticket, error

    def _tried(self, ticket: Ticket) -> list[Exception]:
        """Let go of a request; the error that came of it, if there was one."""
        try:
            self._end(ticket)
        except Exception as error:
            return [error]
        return []

    def _end(self, ticket: Ticket) -> None:
        try:
            ticket.course.free()
        finally:
            if ticket in self._turns:
                self._turns.remove(ticket)
            if ticket in self.running:
                self.running.remove(ticket)
            if ticket is self._last_read:
                self._last_read = None
