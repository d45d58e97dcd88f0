"""Two calls side by side: the target's pass, and what the drafter drafts meanwhile.

`Threads` runs them in threads of their own, each with its share of the cores; kernels let go of the interpreter's lock. `InTurn`
runs them one after the other on a clock of its own, which goes on by the longer of the two. Rounds cannot tell one from the
other, so that tests and predictions run the code that users run.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from draftgraph.errors import attempt
from draftgraph.request.clock import Clock

S = TypeVar("S")
D = TypeVar("D")
T = TypeVar("T")


@dataclass(frozen=True)
class Both(Generic[S, D]):
    """What came of two calls, or the error of each.

    seconds  that the first one took. overlapped  those of them in which the second one ran.
    """

    scored: S | Exception
    drafted: D | Exception
    seconds: float
    overlapped: float


class Lanes(Protocol):
    """now      tells the time in seconds, as requests that run here count it.
    threads  of torch that each call has for its kernels; None: as many as there are.
    """

    now: Callable[[], float]
    threads: int | None

    def run(self, score: Callable[[], S], draft: Callable[[], D], clock: Clock) -> Both[S, D]:
        """Run both calls to their end. The clock charges "drafting" until the second one is done, then "target"."""
        ...


@contextmanager
def few_threads(count: int | None) -> Iterator[None]:
    """Torch uses so many threads inside, for passes and for models that are compiled; None: as many as outside."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Threads:
    """Two threads, which start when they are first needed, and end with this object."""

    now: Callable[[], float] = staticmethod(time.perf_counter)

    def __init__(self, threads: int) -> None:
        self.threads: int | None = threads
        self._each = threads
        self._pool: ThreadPoolExecutor | None = None
        self._process: int | None = None
        self._starting = threading.Lock()

    def run(self, score: Callable[[], S], draft: Callable[[], D], clock: Clock) -> Both[S, D]:
        pool = self._started()
        running: list[Future[Any]] = []
        try:
            running.append(scoring := _submitted(pool, _timed, self.now, score))
            running.append(drafting := _submitted(pool, _in_inference, draft))
            with clock("drafting"):
                drafted = drafting.result()
            begun = self.now()
            with clock("target"):
                scored, seconds = scoring.result()
        finally:  # an interrupt leaves nobody behind who writes to a cache
            wait(running)
        return Both(scored, drafted, seconds, max(0.0, seconds - (self.now() - begun)))

    def _started(self) -> ThreadPoolExecutor:
        """The pool of this process: threads do not come along where a process is forked."""
        with self._starting:
            if self._pool is None or self._process != os.getpid():
                self._pool, self._process = ThreadPoolExecutor(2, "draftgraph"), os.getpid()
                both = threading.Barrier(2)
                # A thread that starts takes the number of threads that is set now. None starts where the program has ended.
                with few_threads(self.threads), suppress(RuntimeError):
                    wait([self._pool.submit(_settle, both, self._each) for _ in range(2)])
            return self._pool


def _submitted(pool: ThreadPoolExecutor, act: Callable[..., T], *given: Any) -> Future[T]:
    """An act that a pool runs. Where the program's main thread has ended, pools take no more: then it runs here, at once."""
    try:
        return pool.submit(copy_context().run, act, *given)
    except RuntimeError:
        done: Future[T] = Future()
        done.set_result(act(*given))
        return done


SETTLING_SECONDS = 10.0
"""Two threads that start wait so long for each other, at most."""


def _settle(both: threading.Barrier, count: int) -> None:
    """Two threads of a pool have their number of kernel threads from here on; each of them meets the other."""
    torch.set_num_threads(count)
    torch.get_num_threads()  # the first question of a thread takes over what is set for all; later it is left alone
    both.wait(SETTLING_SECONDS)


class InTurn:
    """One call after the other, on a clock that goes on as if they had run side by side.

    base  tells the time in seconds that calls take.
    """

    def __init__(self, base: Callable[[], float] = time.perf_counter, threads: int | None = None) -> None:
        self.base, self.threads, self._saved = base, threads, 0.0

    def now(self) -> float:
        return self.base() - self._saved

    def run(self, score: Callable[[], S], draft: Callable[[], D], clock: Clock) -> Both[S, D]:
        begun = self.now()
        scored, seconds = _timed(self.now, score)
        self._saved += self.now() - begun  # time is back where it was
        with clock("drafting"):
            drafted = _in_inference(draft)
        left = max(0.0, begun + seconds - self.now())
        with clock("target"):
            self._saved -= left
        return Both(scored, drafted, seconds, seconds - left)


def _timed(now: Callable[[], float], act: Callable[[], S]) -> tuple[S | Exception, float]:
    begun = now()
    return _in_inference(act), now() - begun


@torch.inference_mode()
def _in_inference(act: Callable[[], S]) -> S | Exception:
    """What an act returns, or its error. Whether gradients are recorded belongs to a thread."""
    return attempt(act)
