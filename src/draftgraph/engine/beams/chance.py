"""The random decisions of a round of beams, each with an address of its own in the request's noise."""

from __future__ import annotations

from itertools import count

import torch

from draftgraph.sampling.rng import Noise, Role
from draftgraph.verification.base import sample


class RoundChance:
    """Fresh noise of the round that starts at committed length `length`, as `verification.base.draw` reads it for one beam.

    The tests of the first slots of all layers are one inversion of one uniform u, layer after layer: of the interval [0, 1),
    failing in the first layer takes the lowest part; of what is left, failing in the second takes the lowest part, and so on.
    Every other slot has a uniform of its own.
    """

    def __init__(self, noise: Noise, length: int) -> None:
        self.noise, self.length = noise, length
        self._quantile = noise.uniform(length, Role.ACCEPT)
        self._lowest, self._width = 0.0, 1.0
        self._draws = count()

    def drafted(self, law: torch.Tensor, depth: int, slot: int) -> int:
        return sample(law, self.noise.uniform(self.length, Role.DRAFT, depth, slot))

    def passes(self, probability: float, depth: int, slot: int) -> bool:
        if slot:
            return self.noise.uniform(self.length, Role.ACCEPT, depth, slot) < probability
        failing = self._width * (1.0 - probability)
        passed = self._quantile >= self._lowest + failing
        if passed:
            self._lowest += failing
        self._width = self._width * probability if passed else failing
        return passed

    def fresh(self, law: torch.Tensor) -> int:
        return sample(law, self.noise.uniform(self.length, Role.BONUS, 0, next(self._draws)))
