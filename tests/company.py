"""Requests that are decoded in the same rounds, and join and leave as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import draftgraph as dg
from draftgraph.engine.course import Course
from draftgraph.engine.options import read_options
from draftgraph.engine.requests import make_course
from draftgraph.engine.round import decode_round
from draftgraph.request.result import Event


def arrived(engine: dg.Engine, prompt: list[int], **options: Any) -> Course:
    """A request that has begun; options of drafting are its own."""
    course = make_course(engine, prompt, read_options(None, options, 1)[0])
    course.begin()
    return course


def running(courses: Sequence[Course]) -> list[Course]:
    return [course for course in courses if course.request.finish_reason is None]


def happened(courses: Sequence[Course]) -> list[Event | Exception]:
    """One round of running requests, whose long texts are read before it; what came of it for each."""
    for course in courses:
        while course.read_piece():
            pass
    first = courses[0]
    limits = [course.plan() for course in courses]
    found = decode_round([course.request for course in courses], first.drafter, first.target, limits)
    for course, each in zip(courses, found, strict=True):
        if isinstance(each, Exception):
            course.free()
            continue
        course.look_back()
        if course.request.finish_reason is not None:
            course.free()
    return found


def succeeded(outcomes: Iterable[Event | Exception]) -> list[Event]:
    """The events of a round in which nothing may fail: a request's error is raised, where a round only returns it."""
    events = []
    for each in outcomes:
        if isinstance(each, Exception):
            raise each
        events.append(each)
    return events


def round_of(courses: Sequence[Course]) -> list[Event]:
    """One round in which nothing fails."""
    return succeeded(happened(courses))


def together(
    arriving: Sequence[Callable[[], Course]], choose: Callable[[int], int], after: Callable[[list[Course]], None]
) -> list[list[int]]:
    """Decode requests that join and pause at random; their outputs, in the order of `arriving`. after  each round."""
    waiting, courses = list(arriving[1:]), [arriving[0]()]
    while waiting or running(courses):
        while waiting and choose(2):
            courses.append(waiting.pop(0)())
        some = [course for course in running(courses) if choose(4)]
        if some:
            round_of(some)
            after(courses)
    return [course.request.output for course in courses]
