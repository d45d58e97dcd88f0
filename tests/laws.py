"""Comparing samples with an exact law."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import torch

RARE = 8.0
"""Outcomes expected less often than this share one cell."""


def p_value(samples: Sequence[Hashable], law: Mapping[Hashable, float]) -> float:
    """Chi-squared p-value of `samples` under `law`; zero if a sample is impossible."""
    counts = Counter(samples)
    if any(law.get(outcome, 0.0) <= 0.0 for outcome in counts):
        return 0.0
    cells: list[tuple[float, float]] = []
    rare_expected = rare_seen = 0.0
    for outcome, probability in law.items():
        expected, seen = probability * len(samples), float(counts[outcome])
        if expected < RARE:
            rare_expected, rare_seen = rare_expected + expected, rare_seen + seen
        else:
            cells.append((expected, seen))
    if rare_expected >= 1.0:
        cells.append((rare_expected, rare_seen))
    statistic = sum((seen - expected) ** 2 / expected for expected, seen in cells)
    freedom = torch.tensor((len(cells) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64)))
