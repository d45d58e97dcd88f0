"""The numbers of the recipe that won (measured in docs/training.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass

LATER = 0.8
"""A step, or a slot, counts for so much of the one before it."""


@dataclass(frozen=True)
class Stage:
    """steps  unrolled steps that are trained at once. share  of the whole training, in time or updates."""

    name: str
    steps: int
    share: float


@dataclass(frozen=True)
class Objective:
    """What training makes small: a sum of these, each with its weight.

    law      divergence from the target's law over the head.
    feature  smooth distance of what the row below reads from the target's feature (FSPAD: partial alignment).
    best     divergence over the target's ten likeliest entries alone (HASS, GRIFFIN).
    agree    a later step counts where the text was among so many likeliest tokens of all earlier steps (GRIFFIN); 0: always.
    blocks   whether all steps are taken in one pass, in blocks as long as the stage has steps (GliDe).
    revealed  share of masked blocks of which some tokens are given, at random, and the others are learnt (SpecDiff).
    """

    law: float = 1.0
    feature: float = 0.0
    best: float = 0.0
    agree: int = 0
    blocks: bool = False
    revealed: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """head    entries of the reduced head.
    rows     padded rows per update.
    peak     learning rate at its highest; it rises for `warmup` updates and falls as a cosine to `floor` of it.
    decay    of matrices. clip  of the gradient's norm.
    measured  how often the drafter is measured.
    patience  measurements in a row without a better one, after which a stage ends.
    """

    head: int = 4096
    rows: int = 1024
    peak: float = 2e-3
    warmup: int = 40
    floor: float = 0.05
    decay: float = 0.05
    clip: float = 1.0
    measured: int = 24
    patience: int = 4
    seed: int = 0
    stages: tuple[Stage, ...] = (Stage("one step", 1, 0.67), Stage("three steps", 3, 0.33))
    objective: Objective = Objective()

    def rate(self, progress: float, updates: int) -> float:
        """The learning rate after `updates` updates, `progress` (0 to 1) of the whole training."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return self.peak * min(1.0, (updates + 1) / self.warmup) * (self.floor + (1.0 - self.floor) * cosine)


@dataclass(frozen=True)
class Span:
    """How long all stages together may train: in seconds, in updates, or in both, whichever is over first."""

    seconds: float = math.inf
    updates: float = math.inf

    def progress(self, share: float, seconds: float, updates: int) -> float:
        """How much of a stage with that share is over."""
        return max(seconds / (self.seconds * share), updates / (self.updates * share))
