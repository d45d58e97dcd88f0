"""The numbers of the bundled pair: how large the two models are, and how long each stage trains with which rates."""

from __future__ import annotations

from dataclasses import dataclass

MAX_POSITION = 1024


@dataclass(frozen=True)
class Shape:
    """The width the two models share; only the number of layers differs between them."""

    vocab: int = 2048
    hidden: int = 256
    intermediate: int = 704
    heads: int = 4
    drafter_layers: int = 1
    middle_layers: int = 4
    target_layers: int = 12


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own learning-rate cycle.

    `share` is its part of the minutes, `cooldown` the part of the stage in which the rate falls to zero, and
    `long_from` the part after which windows have `long_context` tokens instead of `context`.
    """

    name: str
    layers: int
    share: float
    cooldown: float
    tokens_per_step: int
    context: int = 256
    long_context: int = 512
    long_from: float = 1.0
    muon_rate: float = 0.005
    adam_rate: float = 0.015
    warmup: float = 0.03


def standard_stages(shape: Shape) -> list[Stage]:
    """The drafter, a half-way model and the target.

    A token costs the half-way model a third of what it costs the target, so the first part of the growth is cheaper
    there.
    """
    return [
        Stage("drafter", shape.drafter_layers, 0.18, cooldown=0.4, tokens_per_step=2048),
        Stage("middle", shape.middle_layers, 0.24, cooldown=0.0, tokens_per_step=4096),
        Stage(
            "target",
            shape.target_layers,
            0.46,
            cooldown=0.7,
            tokens_per_step=4096,
            long_from=0.6,
            muon_rate=0.004,
            adam_rate=0.008,
        ),
    ]


def distil_stage(shape: Shape) -> Stage:
    """The last stage: the drafter learns the target's probabilities instead of the text."""
    return Stage(
        "distilled",
        shape.drafter_layers,
        0.12,
        cooldown=0.8,
        tokens_per_step=2048,
        context=512,
        muon_rate=0.002,
        adam_rate=0.005,
    )
