"""Requests of one call: together in the caller's thread, or beside others in the background."""

from __future__ import annotations

from collections.abc import Sequence

from draftgraph.engine.background import Background, Entry
from draftgraph.engine.course import Course
from draftgraph.engine.results import tell
from draftgraph.engine.scheduler import Scheduler, Ticket
from draftgraph.errors import QueueFullError
from draftgraph.request.result import Event, Result, Stream


def collect(stream: Stream) -> Result:
    """The result of one request. An error carries what came before it."""
    try:
        for _ in stream:
            pass
    except BaseException as error:
        tell(error, [stream.result()], 0)
        raise
    finally:
        stream.close()
    return stream.result()


def decode_together(scheduler: Scheduler, courses: Sequence[Course]) -> list[Result]:
    """The results of requests, in order. If one fails, the others go on to their end; then the first error is raised.

    scheduler  one that has no other requests.
    """
    failed: dict[Ticket, BaseException] = {}
    tickets: list[Ticket] = []
    try:
        tickets += [scheduler.add(course) for course in courses]
        while scheduler.busy:
            for ticket, outcome in scheduler.step():
                if not isinstance(outcome, Event):
                    failed.setdefault(ticket, outcome)
    except BaseException as error:
        results = [course.result() for course in courses]
        tell(error, results, next((i for i, result in enumerate(results) if result.finish_reason is None), 0))
        raise
    finally:
        scheduler.close()
    return _settled(courses, [failed.get(ticket) for ticket in tickets])


async def decode_beside(background: Background, courses: Sequence[Course]) -> list[Result]:
    """`decode_together`, beside whoever else is decoded in the background.

    Where the queue is full, requests wait for those of the same call. Raises QueueFullError if there are none.
    """
    entries: list[Entry] = []
    ended: list[BaseException | None] = []
    try:
        for course in courses:
            while (entry := _added(background, course, len(ended) < len(entries))) is None:
                ended.append(await entries[len(ended)].end())
            entries.append(entry)
        while len(ended) < len(entries):
            ended.append(await entries[len(ended)].end())
    except BaseException:
        for entry in entries:
            entry.cancel()
        raise
    return _settled(courses, ended)


def _added(background: Background, course: Course, patient: bool) -> Entry | None:
    """The entry of a request; None where the queue is full and `patient` says that it will not stay so."""
    try:
        return background.add(course, events=False)
    except QueueFullError:
        if patient:
            return None
        raise


def _settled(courses: Sequence[Course], errors: Sequence[BaseException | None]) -> list[Result]:
    """The results of requests that are over. Raises the first of their errors."""
    results = [course.result() for course in courses]
    for number, error in enumerate(errors):
        if error is not None:
            tell(error, results, number)
            raise error
    return results
