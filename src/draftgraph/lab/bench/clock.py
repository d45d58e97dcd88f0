"""Taking the time: contenders interleaved, run by run, so that whatever slows the machine down slows all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from draftgraph.lab.bench.contenders import Answer, Contender


class Prompted(Protocol):
    @property
    def ids(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Timed:
    """One contender, one prompt, once.

    place    position in its turn. seconds  wall time of the whole call, prompt included; on_core  of them, those in which
    the calling thread had a core.
    """

    place: int
    seconds: float
    on_core: float
    answer: Answer


@dataclass(frozen=True)
class Turn:
    """Everybody once on one prompt, one after the other. prompt  its index. timed  by name of the contender.

    failed  by name, what ended the others.
    """

    prompt: int
    repeat: int
    timed: Mapping[str, Timed]
    failed: Mapping[str, Exception]


Tell = Callable[[str], None]
Forgive = Callable[[Contender], bool]


def interleave(
    contenders: Sequence[Contender],
    prompts: Sequence[Prompted],
    repeats: int,
    tell: Tell = lambda name: None,
    forgive: Forgive = lambda contender: False,
    seed: int = 0,
) -> Iterator[Turn]:
    """Every contender once per prompt and repeat, a turn at a time; a warm-up of everybody comes first.

    Every prompt has its turn before one has its second, so that a session that ends early has seen as many as possible.

    tell     hears who has just run (warm-up included).
    forgive  whether a contender's error only ends that contender, as a turn's `failed` then says; otherwise it is raised.
    """
    running = list(contenders)
    trouble: dict[str, Exception] = {}
    for contender in contenders:  # caches, allocator and threads are cold in a first call
        _try(contender, prompts[0].ids, seed, 0, forgive, trouble)
        tell(contender.name)
    running = [contender for contender in running if contender.name not in trouble]
    gc.collect()
    gc.freeze()
    try:
        for number, (where, repeat) in enumerate((p, r) for r in range(repeats) for p in range(len(prompts))):
            gc.collect()
            timed: dict[str, Timed] = {}
            for place, contender in enumerate(order(running, number)):
                one = _try(contender, prompts[where].ids, seed + 1000 * number + 1, place, forgive, trouble)
                if one is not None:
                    timed[contender.name] = one
                tell(contender.name)
            yield Turn(where, repeat, {c.name: timed[c.name] for c in running if c.name in timed}, trouble)
            running = [contender for contender in running if contender.name not in trouble]
            trouble = {}
    finally:
        gc.unfreeze()


def order(contenders: Sequence[Contender], turn: int) -> list[Contender]:
    """The order of a turn: every order is followed by the same backwards, then everybody moves by one place.

    In twice as many turns as there are contenders everybody runs twice at every place. Backwards as well, because with rotation
    alone everybody would always run after the same neighbour.
    """
    start = turn // 2 % len(contenders)
    rotated = [*contenders[start:], *contenders[:start]]
    return rotated[::-1] if turn % 2 else rotated


def _try(
    contender: Contender, ids: Sequence[int], seed: int, place: int, forgive: Forgive, trouble: dict[str, Exception]
) -> Timed | None:
    try:
        with _no_collection():
            begun, core = time.perf_counter(), time.thread_time()
            answer = contender.answer(ids, seed)
            seconds, on_core = time.perf_counter() - begun, time.thread_time() - core
    except Exception as error:
        if not forgive(contender):
            raise
        trouble[contender.name] = error
        return None
    return Timed(place, seconds, on_core, answer)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection while the time is taken: it would hit whoever happens to run."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
