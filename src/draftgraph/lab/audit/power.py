"""What a chi-squared test can see: its tail, its power, and the smallest bias that it would have shown.

Everything is computed from the incomplete gamma function; no statistics package is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

POWER = 0.9
"""The probability with which a bias of the stated size would have been seen."""


def tail(statistic: float, freedom: int) -> float:
    """P(chi-squared with `freedom` degrees >= statistic)."""
    half, x = (torch.tensor(value / 2.0, dtype=torch.float64) for value in (float(freedom), statistic))
    return float(torch.special.gammaincc(half, x))


def critical(freedom: int, level: float) -> float:
    """The statistic that is exceeded with probability `level`."""
    return _crossing(lambda x: tail(x, freedom) < level)


def power(freedom: int, shift: float, threshold: float) -> float:
    """P(non-central chi-squared >= threshold), `shift` its non-centrality: a Poisson mixture of central ones."""
    half = shift / 2.0
    spread = 12.0 * math.sqrt(half) + 40.0  # what is further from the Poisson's mean is below rounding
    j = torch.arange(max(0, math.floor(half - spread)), math.ceil(half + spread), dtype=torch.float64)
    weights = torch.exp(torch.xlogy(j, torch.tensor(half, dtype=torch.float64)) - half - torch.lgamma(j + 1.0))
    tails = torch.special.gammaincc(j + freedom / 2.0, torch.full_like(j, threshold / 2.0))
    return float((weights * tails).sum())


def needed_shift(freedom: int, level: float) -> float:
    """The non-centrality that a test at `level` sees with probability `POWER`."""
    threshold = critical(freedom, level)
    return _crossing(lambda shift: power(freedom, shift, threshold) > POWER)


def detectable_tv(freedom: int, level: float, samples: int) -> float:
    """The smallest total variation between binned laws that a test of `samples` draws sees with probability `POWER`.

    Whatever its direction: moving mass e from cells B to cells A has non-centrality n sum(d^2 / p) >= n e^2 / (P(A) (1 - P(A)))
    >= 4 n e^2, by Cauchy-Schwarz in A and in B. Where every draw has its own law, the mean covariance is below that of the
    mean law, so the bound holds for the mean bias. Figures of 1 and above mean that the test is blind.
    """
    return math.sqrt(needed_shift(freedom, level) / (4.0 * samples))


def samples_needed(freedom: int, level: float, tv: float) -> int:
    """How many draws show every bias of total variation `tv` with probability `POWER`."""
    return math.ceil(needed_shift(freedom, level) / (4.0 * tv * tv))


def _crossing(above: Callable[[float], bool]) -> float:
    """Where a monotone condition becomes true, by bisection."""
    low, high = 0.0, 1.0
    while not above(high):
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (low, middle) if above(middle) else (middle, high)
    return high
