"""The engine's own scheduler, in a thread that starts when there is something to do and ends when there is not.

Three things hold on to each other in one direction: streams and the engine hold the `Background`, which holds the `_Loop`, which
the thread runs. So when engine and streams are gone, nothing but the thread is left, and it is told to end.
"""

from __future__ import annotations

import asyncio
import atexit
import copy
import os
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from draftgraph.backends.base import CausalLM
from draftgraph.engine.course import Course
from draftgraph.engine.results import tell
from draftgraph.engine.scheduler import Load, Outcome, Scheduler, Ticket
from draftgraph.errors import DraftgraphError, ModelError
from draftgraph.request.result import Event

IDLE_SECONDS = 1.0
"""The thread waits so long for another request before it ends."""
EXIT_SECONDS = 30.0
"""The interpreter's end waits so long for the step that is under way."""


class Inbox:
    """What comes of one request, in order, for tasks of any event loop. Its fields are touched under the lock of the loop.

    events  whether its reader wants them all, or only its end.
    over    whether the request is over; what came before is still to be read.
    """

    def __init__(self, events: bool) -> None:
        self.events, self.over = events, False
        self.outcomes: deque[Outcome] = deque()
        self.waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def put(self, outcome: Outcome | None) -> None:
        """None, an error, and an event with a `finish_reason` are the last."""
        is_event = isinstance(outcome, Event)
        self.over = self.over or not is_event or outcome.finish_reason is not None  # type: ignore[union-attr]
        if outcome is not None and (self.events or not is_event):
            self.outcomes.append(outcome)


class Background:
    """Requests of all threads and event loops, decoded together. `make` makes the scheduler, when it is first needed."""

    def __init__(self, make: Callable[[], Scheduler]) -> None:
        self._loop = _Loop(make)
        weakref.finalize(self, self._loop.stop).atexit = False  # `_at_exit` does it then, and waits
        _LOOPS.add(self._loop)

    def add(self, course: Course, events: bool = True) -> Entry:
        """Let a request join. Raises QueueFullError, OptionError, and DraftgraphError in a forked process."""
        self._loop.refuse_fork()
        inbox = Inbox(events)
        return Entry(self, inbox, self._loop.add(course, inbox))

    @property
    def load(self) -> Load:
        self._loop.refuse_fork()
        return self._loop.scheduler().load

    def refresh(self, target: CausalLM) -> None:
        """Let go of finished texts, which old weights have read. Raises ModelError, see `CausalLM.refresh`."""
        self._loop.refuse_fork()
        with self._loop.turn, self._loop.wake:
            scheduler = self._loop.scheduler()
            if scheduler.busy:
                raise ModelError(
                    f"{scheduler.load.running + scheduler.load.waiting} requests are being decoded, in part by the old weights; "
                    "wait for them, then say that weights changed"
                )
            scheduler.prefixes.close()
            target.refresh()


class Entry:
    """A request that has joined, as its reader sees it."""

    def __init__(self, background: Background, inbox: Inbox, ticket: Ticket) -> None:
        self.course = ticket.course
        self._background, self._inbox, self._ticket = background, inbox, ticket
        self._loop = background._loop

    async def next(self) -> Outcome | None:
        """The next outcome, when it is there; None after the last one."""
        while True:
            with self._loop.wake:
                if self._inbox.outcomes:
                    return self._inbox.outcomes.popleft()
                if self._inbox.over:
                    return None
                loop = asyncio.get_running_loop()
                future = loop.create_future()
                self._inbox.waiting.append((loop, future))
            await future

    def cancel(self) -> None:
        """Let the request be over before the next step. May be called from anywhere, and after its end."""
        self._loop.cancel(self._ticket)

    async def end(self) -> BaseException | None:
        """Wait until the request is over, without its events. Returns the error that ended it, if there was one."""
        while isinstance(outcome := await self.next(), Event):
            pass
        return outcome

    async def freed(self) -> None:
        """Cancel, and wait until nothing of the request is cached."""
        self.cancel()
        await self.end()

    def result(self) -> Any:
        """What the request has produced so far."""
        if self._inbox.over:
            return self.course.result()
        with self._loop.turn:  # else it would be read while a round writes
            return self.course.result()


class _Loop:
    """wake  guards everything that others write; it is held for moments. turn  is held during a step."""

    def __init__(self, make: Callable[[], Scheduler]) -> None:
        self.wake, self.turn = threading.Condition(threading.RLock()), threading.RLock()
        self._make = make
        self._scheduler: Scheduler | None = None
        self._inboxes: dict[Ticket, Inbox] = {}
        self._cancelled: list[Ticket] = []
        self._thread: threading.Thread | None = None
        self._process: int | None = None
        self._stopping = False

    def scheduler(self) -> Scheduler:
        with self.wake:
            if self._scheduler is None:
                self._scheduler = self._make()
            return self._scheduler

    def refuse_fork(self) -> None:
        """Looks at no lock: whoever held one may be gone."""
        if self._process not in (None, os.getpid()):
            raise DraftgraphError(
                "this engine decoded in a background thread before the process was forked, and the thread is not here; make an "
                "engine in the new process, or start processes with multiprocessing.set_start_method('spawn')"
            )

    def add(self, course: Course, inbox: Inbox) -> Ticket:
        with self.wake:
            if self._stopping:
                raise DraftgraphError("the program is ending, and no request can begin any more")
            scheduler = self.scheduler()
            ticket = scheduler.add(course, scheduler.serving.queue)
            self._inboxes[ticket] = inbox
            try:
                if self._thread is None:
                    self._start()
            except BaseException:
                scheduler.cancel(ticket)
                del self._inboxes[ticket]
                raise
            self.wake.notify()
            return ticket

    def _start(self) -> None:
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="draftgraph", daemon=True)
        _THREADS.add(self._thread)
        try:
            self._thread.start()
        except BaseException:  # after an interrupt it may run all the same; then it ends by itself
            self._thread = None
            raise

    def cancel(self, ticket: Ticket) -> None:
        if self._process not in (None, os.getpid()):
            return
        with self.wake:
            if ticket in self._inboxes:
                self._cancelled.append(ticket)
                self.wake.notify()

    def stop(self) -> None:
        """Let the thread end after its step; requests that are not over end with it."""
        if self._process not in (None, os.getpid()):
            return
        with self.wake:
            self._stopping = True
            self.wake.notify()

    def _run(self) -> None:
        scheduler = self.scheduler()
        while self._has_work(scheduler):
            with self.turn:
                self._leave_out(scheduler)
                outcomes = self._stepped(scheduler) if scheduler.busy else []
                self._deliver(outcomes)
                outcomes = []

    def _has_work(self, scheduler: Scheduler) -> bool:
        """Wait for something to do. False: there is nothing, and the thread is no longer the one that would do it."""
        with self.wake:
            waited = False
            while self._thread is threading.current_thread() and not self._stopping:
                if self._cancelled or scheduler.busy:
                    return True
                if waited:
                    self._thread = None
                else:
                    waited = not self.wake.wait(IDLE_SECONDS)
            if not self._stopping:
                return False
            self._thread = None
        self._give_up(scheduler, DraftgraphError("the engine is gone, and its requests with it"))
        return False

    def _stepped(self, scheduler: Scheduler) -> list[tuple[Ticket, Outcome]]:
        try:
            return scheduler.step()
        except BaseException as error:  # whatever it was, everybody is told, and the thread goes on
            self._give_up(scheduler, error)
            return []

    def _give_up(self, scheduler: Scheduler, error: BaseException) -> None:
        with self.wake:
            left = list(self._inboxes)
        for ticket in left:
            try:
                scheduler.cancel(ticket)
            except Exception as second:
                error.add_note(f"freeing a request failed as well: {second}")
        self._deliver([(ticket, _own(error)) for ticket in left])

    def _leave_out(self, scheduler: Scheduler) -> None:
        """Let go of cancelled requests."""
        with self.wake:
            cancelled, self._cancelled = self._cancelled, []
            running = [ticket for ticket in dict.fromkeys(cancelled) if ticket in self._inboxes]
        over: list[tuple[Ticket, Outcome | None]] = []
        for ticket in running:
            try:
                scheduler.cancel(ticket)
                over.append((ticket, None))
            except Exception as error:
                over.append((ticket, error))
        self._deliver(over)

    def _deliver(self, outcomes: Iterable[tuple[Ticket, Outcome | None]]) -> None:
        """Put outcomes where they are read, and wake who waits for them: every event loop once."""
        waking: defaultdict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
        with self.wake:
            for ticket, outcome in outcomes:
                inbox = self._inboxes.get(ticket)
                if inbox is None:  # an error after the end was told
                    continue
                if isinstance(outcome, BaseException):
                    tell(outcome, [ticket.course.result()], 0)
                inbox.put(outcome)
                if inbox.over:
                    del self._inboxes[ticket]
                if inbox.outcomes or inbox.over:
                    for loop, future in inbox.waiting:
                        waking[loop].append(future)
                    inbox.waiting = []
        for loop, futures in waking.items():
            with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
                loop.call_soon_threadsafe(_wake, futures)


def _own(error: BaseException) -> BaseException:
    """A copy of an error that several requests are told, each with its own text."""
    try:
        return copy.copy(error).with_traceback(error.__traceback__)
    except Exception:  # its class cannot be copied
        return error


def _wake(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


_LOOPS: weakref.WeakSet[_Loop] = weakref.WeakSet()
_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""Those of all loops. A loop whose thread is about to end knows it no longer, and that one may be freeing a model."""


def _at_exit() -> None:
    """No thread may compute while the interpreter is taken down."""
    for loop in list(_LOOPS):
        loop.stop()
    for thread in list(_THREADS):
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(EXIT_SECONDS)


atexit.register(_at_exit)
