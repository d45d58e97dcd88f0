"""Means over texts with their standard errors; texts are independent, positions of one text are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """value ± error, the standard error over `texts` texts (NaN for a single one), from `count` numbers in all."""

    value: float
    error: float
    texts: int
    count: int

    def off(self, other: Estimate) -> float:
        """How many standard errors of the difference lie between two independent estimates."""
        error = math.hypot(self.error, other.error)
        return (self.value - other.value) / error if error > 0 else math.nan


def ratio(sums: Sequence[float], weights: Sequence[float], count: int) -> Estimate:
    """Σ sums / Σ weights, one entry per text, with the linearised standard error of a ratio of means.

    (Cochran, Sampling Techniques, section 2.11: the residuals sums_i − R weights_i have mean zero.)
    """
    total = sum(weights)
    value = sum(sums) / total
    n = len(sums)
    if n < 2:
        return Estimate(value, math.nan, n, count)
    residuals = sum((a - value * b) ** 2 for a, b in zip(sums, weights, strict=True))
    return Estimate(value, math.sqrt(residuals * n / (n - 1)) / total, n, count)
