"""Taking the time: contenders interleaved, run by run, so that whatever slows the machine down slows all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench.contenders import PLAIN, Answer, Contender
from bench.pairs import Prompt
from draftgraph.stats import PARTS


@dataclass(frozen=True)
class Run:
    """One contender, one prompt, once.

    place    position in its turn; contenders of one turn (prompt and repeat) ran one after the other.
    seconds  wall time of the whole call, prompt included. tokens  new tokens.
    rounds   target calls. nodes  drafted rows that the target computed.
    same     whether the ids are those of transformers' plain greedy decoding; None where sampling makes them differ.
    parts    wall seconds per part of the rounds, in the order of `draftgraph.stats.PARTS`; None for transformers.
    """

    pair: str
    temperature: float
    contender: str
    prompt: str
    repeat: int
    place: int
    seconds: float
    tokens: int
    rounds: int
    nodes: int
    same: bool | None
    parts: tuple[float, ...] | None


def measure(
    contenders: Sequence[Contender],
    prompts: Sequence[Prompt],
    repeats: int,
    pair: str,
    temperature: float,
    tell: Callable[[str], None] = lambda name: None,
) -> list[Run]:
    """Every contender once per prompt and repeat. `tell` hears who has just run (warm-up included)."""
    runs: list[Run] = []
    for contender in contenders:  # caches, allocator and threads are cold in a first call
        contender.answer(prompts[0].ids, 0)
        tell(contender.name)
    gc.collect()
    gc.freeze()
    for turn, (prompt, repeat) in enumerate((prompt, repeat) for prompt in prompts for repeat in range(repeats)):
        gc.collect()
        answers: dict[str, tuple[int, float, Answer]] = {}
        for place, contender in enumerate(order(contenders, turn)):
            with _no_collection():
                start = time.perf_counter()
                answer = contender.answer(prompt.ids, 1000 * turn + 1)
                seconds = time.perf_counter() - start
            answers[contender.name] = place, seconds, answer
            tell(contender.name)
        plain = answers[PLAIN][2].ids if temperature == 0 and PLAIN in answers else None
        runs += [
            _run(pair, temperature, contender.name, prompt.name, repeat, *answers[contender.name], plain)
            for contender in contenders
        ]
    gc.unfreeze()
    return runs


def order(contenders: Sequence[Contender], turn: int) -> list[Contender]:
    """The order of a turn: rotated, so that everybody runs at every place, and every other time backwards.

    Backwards as well, because with rotation alone everybody would always run after the same neighbour.
    """
    start = turn % len(contenders)
    rotated = [*contenders[start:], *contenders[:start]]
    return rotated[::-1] if turn % 2 else rotated


def fastest(
    contenders: Sequence[Contender],
    prompts: Sequence[Prompt],
    repeats: int,
    pair: str,
    temperature: float,
    tell: Callable[[str], None] = lambda name: None,
) -> tuple[Contender, dict[str, float]]:
    """The contender with the lowest median time over a few prompts; also everybody's ms per token."""
    runs = measure(contenders, prompts, repeats, pair, temperature, tell)
    times = {
        contender.name: statistics.median(
            run.seconds / run.tokens * 1e3 for run in runs if run.contender == contender.name
        )
        for contender in contenders
    }
    return min(contenders, key=lambda contender: times[contender.name]), times


def _run(
    pair: str, temperature: float, contender: str, prompt: str, repeat: int, place: int, seconds: float, answer: Answer,
    plain: list[int] | None,
) -> Run:  # fmt: skip
    parts = None if answer.parts is None else tuple(answer.parts[part] for part in PARTS)
    same = None if plain is None else answer.ids == plain
    return Run(
        pair, temperature, contender, prompt, repeat, place, seconds, len(answer.ids), answer.rounds, answer.nodes, same,
        parts,
    )  # fmt: skip


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection while the time is taken: it would hit whoever happens to run."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
