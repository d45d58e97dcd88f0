"""One block of run.py: contenders in turns over the prompts of a pair, as a list of runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.pairs import Prompt
from draftgraph.bench.clock import Timed, interleave, order
from draftgraph.bench.contenders import PLAIN, Contender
from draftgraph.request.stats import PARTS

__all__ = ["Run", "fastest", "measure", "order"]


@dataclass(frozen=True)
class Run:
    """One contender, one prompt, once.

    place    position in its turn; contenders of one turn (prompt and repeat) ran one after the other.
    seconds  wall time of the whole call, prompt included. tokens  new tokens.
    rounds   target calls. nodes  drafted rows that the target computed.
    same     whether the ids are those of transformers' plain greedy decoding; None where sampling makes them differ.
    parts    wall seconds per part of the rounds, in the order of `draftgraph.request.stats.PARTS`; None for transformers.
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
    for turn in interleave(contenders, prompts, repeats, tell):
        plain = turn.timed[PLAIN].answer.ids if temperature == 0 and PLAIN in turn.timed else None
        name = prompts[turn.prompt].name
        runs += [_run(pair, temperature, who, name, turn.repeat, timed, plain) for who, timed in turn.timed.items()]
    return runs


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
    pair: str, temperature: float, contender: str, prompt: str, repeat: int, timed: Timed, plain: list[int] | None
) -> Run:
    answer = timed.answer
    parts = None if answer.parts is None else tuple(answer.parts[part] for part in PARTS)
    same = None if plain is None else answer.ids == plain
    return Run(
        pair, temperature, contender, prompt, repeat, timed.place, timed.seconds, len(answer.ids), answer.rounds,
        answer.nodes, same, parts,
    )  # fmt: skip
