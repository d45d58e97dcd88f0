"""Beam sampling as it reads, one layer after the other and without drafts: what `Engine.beam_sample` is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch

from draftgraph.sampling.beam_params import BeamParams

Law = Callable[[tuple[int, ...]], torch.Tensor]
"""law(output so far) -> f64[V], the law of the next token."""
Draw = Callable[[torch.Tensor], int]
"""draw(weights) -> an entry of f64[n], drawn with these weights."""
Scored = tuple[float, tuple[int, ...]]
"""A score, and an output."""


def plain_beam_sample(law: Law, draw: Draw, params: BeamParams, eos: Collection[int]) -> list[Scored]:
    """The finished beams, the best first: `params.num_beams` of them, unless all ended before."""
    penalty, last = 1.0 if params.length_penalty is None else params.length_penalty, params.max_new_tokens
    running: list[Scored] = [(0.0, ())]
    finished: list[Scored] = []
    for length in range(1, last + 1):
        running = plain_layer(law, draw, params.num_beams, running)
        ended = [beam for beam in running if beam[1][-1] in eos or length == last]
        running = [beam for beam in running if beam not in ended]
        finished += [(score / length**penalty, tokens) for score, tokens in ended]
        finished = sorted(finished, key=lambda beam: -beam[0])[: params.num_beams]
        if not running:
            break
        hoped = last if params.early_stopping == "never" and penalty > 0 else length
        beaten = max(running)[0] / hoped**penalty <= finished[-1][0] if finished else False
        if len(finished) == params.num_beams and (params.early_stopping is True or beaten):
            break
    return finished


def plain_layer(law: Law, draw: Draw, num_beams: int, beams: list[Scored]) -> list[Scored]:
    """`num_beams` independent draws from the joint law over (beam, token): exp(score) times the beam's law."""
    laws = [law(tokens) for _, tokens in beams]
    best = max(score for score, _ in beams)
    joint = torch.cat([math.exp(score - best) * row for (score, _), row in zip(beams, laws, strict=True)])
    drawn = [divmod(draw(joint), len(laws[0])) for _ in range(num_beams)]
    return [(beams[beam][0] + math.log(laws[beam][token]), (*beams[beam][1], token)) for beam, token in drawn]
