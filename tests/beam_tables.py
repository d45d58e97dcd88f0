"""Rounds of beams over tables: models so small that all random decisions of a round can be enumerated."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from draftgraph.backends.base import CacheHandle
from draftgraph.budget.limits import Windows
from draftgraph.engine.beams.beam import Beam, Ending, Finished
from draftgraph.engine.beams.choice import Sampled
from draftgraph.engine.beams.round import Run, decode_layers
from draftgraph.engine.beams.texts import BeamTexts
from draftgraph.lab.plain_beams import plain_layer
from draftgraph.lab.prove.law import Draw, enumerate_draws
from draftgraph.sampling.beam_params import BeamParams
from draftgraph.sampling.warp import Warper
from test_sampling_law import TableLM

PROMPT = (0,)
State = tuple[tuple[tuple[int, ...], int], ...]
"""Beams in order: tokens, and how often."""
BEGIN: State = (((), 1),)


class ForkingTables(TableLM):
    """A table of laws f64[V] by token ids, whose texts may go on as several."""

    forks = True
    dtype = torch.float64

    def __init__(self, vocab: int, law: Callable[[tuple[int, ...]], torch.Tensor]) -> None:
        self.vocab_size, self.law = vocab, law
        self.row = lambda prefix: law(prefix).log()

    def fork(self, text: CacheHandle, nodes: Sequence[int]) -> CacheHandle:
        return CacheHandle(slots=np.append(text.slots, text.nodes[nodes[-1]]) if nodes else text.slots)


class EnumeratedChance:
    """All random decisions are the enumerator's."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw

    def drafted(self, law: torch.Tensor, depth: int, slot: int) -> int:
        return self.draw(law)

    def passes(self, probability: float, depth: int, slot: int) -> bool:
        return bool(self.draw(torch.tensor([1.0 - probability, probability], dtype=torch.float64)))

    def fresh(self, law: torch.Tensor) -> int:
        return self.draw(law)


class Until(Finished):
    """A request that is over with its `length`-th layer, of which all beams go on."""

    def __init__(self, ending: Ending, length: int) -> None:
        super().__init__(ending)
        self.length = length

    def closed(self, running: Sequence[Beam]) -> bool:
        return not running or len(running[0].tokens) >= self.length


def state_of(beams: Iterable[Beam]) -> State:
    return tuple(sorted((beam.tokens, beam.count) for beam in beams))


def score_of(target: ForkingTables, output: tuple[int, ...]) -> float:
    """The sum of its log-probabilities."""
    return sum(math.log(target.law((*PROMPT, *output[:i]))[token]) for i, token in enumerate(output))


def make_run(
    target: ForkingTables, drafter: ForkingTables, params: BeamParams, layers: int, draw: Draw, begin: State = BEGIN
) -> Run:
    """A request that ends with its layer number `layers` and begins with these beams."""
    ending = Ending(params.num_beams, 0.0, False, layers + 1, frozenset())
    run = Run(
        PROMPT,
        params.num_speculative_tokens or 0,
        Windows(),
        Sampled(params, Warper(params, len(PROMPT), [], target.device), layers + 1),
        lambda length: EnumeratedChance(draw),
        BeamTexts(target, len(PROMPT), target.vocab_size),
        BeamTexts(drafter, len(PROMPT), target.vocab_size),
        Until(ending, layers),
        [Beam(tokens, score_of(target, tokens), count) for tokens, count in begin],
    )
    for texts in (run.target, run.drafter):
        texts._texts = [CacheHandle() for _ in begin]
    return run


def law_of_round(make: Callable[[Draw], Run]) -> dict[State, float]:
    """The law of the beams behind one round."""

    def program(draw: Draw) -> State:
        run = make(draw)
        decode_layers(run)
        return state_of(run.beams)

    masses: defaultdict[State, float] = defaultdict(float)
    for probability, state in enumerate_draws(program):
        masses[state] += probability
    return dict(masses)


def law_of_layers(target: ForkingTables, drafter: ForkingTables, params: BeamParams, layers: int) -> dict[State, float]:
    """The law of the beams of layer number `layers`, in as many rounds as it takes."""
    masses: dict[State, float] = {BEGIN: 1.0}
    while True:
        begin = next((state for state in masses if len(state[0][0]) < layers), None)
        if begin is None:
            return masses
        mass = masses.pop(begin)
        law = law_of_round(lambda draw: make_run(target, drafter, params, layers, draw, begin))  # noqa: B023
        for state, probability in law.items():
            masses[state] = masses.get(state, 0.0) + mass * probability


def plain_law(
    target: ForkingTables, num_beams: int, layers: int, widths: Mapping[int, int] | None = None
) -> dict[State, float]:
    """The law of the same beams without drafts."""
    masses: dict[tuple[Any, ...], float] = {((0.0, ()),): 1.0}
    for layer in range(1, layers + 1):
        width = (widths or {}).get(layer, num_beams)
        further: defaultdict[tuple[Any, ...], float] = defaultdict(float)
        for beams, mass in masses.items():
            program = lambda draw: tuple(sorted(plain_layer(law, draw, width, list(beams))))  # noqa: B023, E731
            law = lambda output: target.law((*PROMPT, *output))  # noqa: E731
            for probability, drawn in enumerate_draws(program):
                further[drawn] += mass * probability
        masses = further
    found: defaultdict[State, float] = defaultdict(float)
    for beams, mass in masses.items():
        found[tuple(sorted(Counter(tokens for _, tokens in beams).items()))] += mass
    return dict(found)


def distance(first: Mapping[State, float], second: Mapping[State, float]) -> float:
    """Total variation."""
    return sum(abs(first.get(state, 0.0) - second.get(state, 0.0)) for state in {*first, *second}) / 2
