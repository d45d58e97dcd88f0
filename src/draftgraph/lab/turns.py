"""The one stopwatch. Contenders take turns on the same prompts: a slow moment of the machine slows all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from draftgraph.engine.engine import Engine
from draftgraph.sampling.params import SamplingParams


@dataclass(frozen=True)
class Answer:
    """What one run generated, counted alike for everybody.

    ids     the new token ids.
    rounds  target calls.
    nodes   drafted rows that the target computed in them.
    parts   wall seconds per part of the rounds (`draftgraph.request.stats.PARTS`); None where nobody splits them.
    """

    ids: list[int]
    rounds: int
    nodes: int
    parts: Mapping[str, float] | None = None


class Contender(Protocol):
    """A way to continue a prompt."""

    @property
    def name(self) -> str: ...

    def answer(self, prompt: Sequence[int], seed: int) -> Answer: ...


def answer_of(engine: Engine, prompt: Sequence[int], params: SamplingParams, seed: int) -> Answer:
    """The answer of an engine."""
    result = engine.generate(list(prompt), replace(params, seed=seed))
    stats = result.stats
    return Answer(result.token_ids, stats.num_rounds, stats.num_verified_nodes, stats.seconds)


@dataclass(frozen=True)
class Timed:
    """One contender, one prompt, once.

    place    position in its turn.
    seconds  wall time of the whole call, prompt included.
    on_core  those of them in which the calling thread had a core.
    """

    place: int
    seconds: float
    on_core: float
    answer: Answer

    @property
    def pace(self) -> float:
        """Seconds per token."""
        return self.seconds / len(self.answer.ids)


@dataclass(frozen=True)
class Turn:
    """Everybody once on one prompt, one after the other.

    prompt  its index.
    repeat  turns that this prompt had before.
    timed   runs by name of the contender.
    failed  by name, the error that ended a contender.
    """

    prompt: int
    repeat: int
    timed: Mapping[str, Timed]
    failed: Mapping[str, Exception]


def take_turns(
    contenders: Sequence[Contender],
    prompts: Sequence[Sequence[int]],
    count: int,
    seconds: float = 0.0,
    *,
    first: int = 0,
    seed: int = 0,
    tell: Callable[[str], None] = lambda name: None,
    forgive: Callable[[Contender], bool] = lambda contender: False,
) -> Iterator[Turn]:
    """`count` turns, and more until `seconds` are over. In a turn everybody continues the same prompt with the same seed.

    Every prompt has its turn before one has its second: a session that ends early has seen as many as possible.

    first    number of the first turn: prompts, seeds and order go on from there. Before turn 0 everybody warms up.
    tell     hears the name of every contender that has just run, warm-up included.
    forgive  whether a contender's error only ends that contender, as a turn's `failed` then says; otherwise it is raised.
    """
    deadline = time.perf_counter() + seconds
    running, number = list(contenders), first
    timed: dict[str, Timed] = {}
    failed: dict[str, Exception] = {}

    def attempt(contender: Contender, prompt: Sequence[int], seed: int, place: int) -> None:
        try:
            timed[contender.name] = run(contender, prompt, seed, place)
        except Exception as error:
            if not forgive(contender):
                raise
            failed[contender.name] = error
        tell(contender.name)

    for contender in contenders if first == 0 else ():  # caches, allocator and threads are cold in a first call
        attempt(contender, prompts[0], seed, 0)
    running = _still(running, failed)
    with _frozen_heap():
        while number < first + count or time.perf_counter() < deadline:
            gc.collect()
            timed = {}
            repeat, where = divmod(number, len(prompts))
            for place, contender in enumerate(order(running, number)):
                attempt(contender, prompts[where], seed + 1000 * number + 1, place)
            yield Turn(where, repeat, {one.name: timed[one.name] for one in running if one.name in timed}, failed)
            running, failed, number = _still(running, failed), {}, number + 1


def run(contender: Contender, prompt: Sequence[int], seed: int, place: int = 0) -> Timed:
    """One timed run, without garbage collection: that would hit whoever happens to run."""
    gc.disable()
    try:
        begun, core = time.perf_counter(), time.thread_time()
        answer = contender.answer(prompt, seed)
        return Timed(place, time.perf_counter() - begun, time.thread_time() - core, answer)
    finally:
        gc.enable()


def order(contenders: Sequence[Contender], turn: int) -> list[Contender]:
    """The order of a turn: every order is followed by the same backwards, then everybody moves by one place.

    In twice as many turns as there are contenders everybody runs twice at every place. With rotation alone everybody would
    always run after the same neighbour.
    """
    start = turn // 2 % len(contenders)
    rotated = [*contenders[start:], *contenders[:start]]
    return rotated[::-1] if turn % 2 else rotated


class OnCore(Protocol):
    """A run, wherever it was written down."""

    @property
    def seconds(self) -> float: ...

    @property
    def on_core(self) -> float: ...


def share_of_core(runs: Collection[OnCore]) -> float:
    """The share of the time in which the calling thread had a core: 1 if nobody else wanted it."""
    return sum(one.on_core for one in runs) / sum(one.seconds for one in runs)


def _still(running: Sequence[Contender], failed: Collection[str]) -> list[Contender]:
    return [contender for contender in running if contender.name not in failed]


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """Collections between turns do not look at what exists already."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
