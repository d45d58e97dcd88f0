"""An interrupt may strike at any line of a round: no cell stays taken, and the engine goes on as if nothing had happened."""

from __future__ import annotations

import ctypes
import gc
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import draftgraph as dg
from draftgraph.backends.base import CacheHandle
from draftgraph.backends.torch_model import TorchModel
from draftgraph.request.result import Stream
from models import perturbed, plain, tiny_lm

SOURCE = str(Path(dg.__file__).parent)
PROMPT, TOKENS = [5, 9, 5], 10
PARAMS = dg.SamplingParams(max_new_tokens=TOKENS, seed=3)
EVERY = int(os.environ.get("INTERRUPT_EVERY", "37"))
"""Of the lines that a request runs through, one in so many is tried; 1 tries all, which takes minutes."""
CLOSING = {
    (inspect.getsourcefile(function), first + line)
    for function in (Stream.close, TorchModel.close, CacheHandle.clear)
    for lines, first in [inspect.getsourcelines(function)]
    for line in range(len(lines))
}
"""Where closing itself is struck, cells may be held for as long as the error is: by the frames that it came through."""
ENGINES: dict[str, dict[str, Any]] = {
    "graph": {"budget": 6},
    "auto": {},
    "table": {"budget": 6, "edges": ("merge", "own", "context", "rejected", "table")},
}


@cache
def engine(name: str) -> dg.Engine:
    target = tiny_lm()
    return dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.05), **ENGINES[name])


@cache
def right() -> list[int]:
    return plain(engine("graph").target.model, PROMPT, TOKENS)


class Tracer:
    """Counts the lines of draftgraph that run, by place; raises `error` at one of them."""

    def __init__(self, at: tuple[str, int] | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.at, self.error, self.struck = at, error, False
        self.places: dict[tuple[str, int], None] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        if event == "line":
            place = (frame.f_code.co_filename, frame.f_lineno)
            self.places[place] = None
            if place == self.at:
                self.at, self.struck = None, True
                raise self.error
        return self

    @contextmanager
    def tracing(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)


def whole(engine: dg.Engine) -> None:
    assert engine.generate(PROMPT, PARAMS).token_ids == right()


def piecewise(engine: dg.Engine) -> None:
    """A stream that is read in part, and then closed; an interrupted reader closes it as well."""
    stream = engine.stream(PROMPT, PARAMS)
    try:
        for _ in range(2):
            next(stream)
    finally:
        stream.close()


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Nothing that earlier tests have left is finalised amid the lines that are counted and struck."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def taken(engine: dg.Engine) -> int:
    return len(engine.target.cache._used) + len(engine.drafter.model.cache._used)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("use", [whole, piecewise])
@pytest.mark.parametrize("name", ENGINES)
def test_an_interrupt_at_any_line(name: str, use: Callable[[dg.Engine], None]) -> None:
    made = engine(name)
    use(made)  # what is built at a first use is no part of any round
    tracer = Tracer()
    with tracer.tracing():
        use(made)
    assert len(tracer.places) > 300
    struck = 0
    for number, place in enumerate(tracer.places):
        if number % EVERY:
            continue
        tracer = Tracer(place, (KeyboardInterrupt, MemoryError, GeneratorExit)[number % 3])
        try:
            with tracer.tracing():
                use(made)
        except (KeyboardInterrupt, MemoryError, GeneratorExit, dg.DraftgraphError):
            if place not in CLOSING:  # every frame that the error came through is still alive here
                assert taken(made) == 0, place
        struck += tracer.struck
        assert taken(made) == 0, place
        whole(made)
    assert struck > len(tracer.places) // EVERY // 2


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException]]:
    """What struck inside a finalizer. Python tells of such an error and goes on: no program can catch it."""
    told: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))
    return told


def test_an_interrupt_from_another_thread(lost: list[type[BaseException]]) -> None:
    """As Ctrl-C comes: between any two bytecodes of whatever code is running, transformers' and torch's included."""
    made = engine("graph")
    outcomes = []

    def work() -> None:
        outcome = "finished"
        try:
            begun.set()
            for _ in range(50):
                whole(made)
        except KeyboardInterrupt:
            outcome = "interrupted"
        outcomes.append(f"{outcome}, {taken(made)} taken")  # once the frames that it came through are gone

    for number in range(12):
        begun, thread = threading.Event(), threading.Thread(target=work)
        thread.start()
        assert begun.wait(60)
        time.sleep(0.002 * number + 0.001)
        assert thread.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt))
        thread.join(60)
        assert not thread.is_alive()
        whole(made)
        assert taken(made) == 0
    assert set(outcomes) <= {"finished, 0 taken", "interrupted, 0 taken"}
    assert "interrupted, 0 taken" in outcomes
    assert set(lost) <= {KeyboardInterrupt}
