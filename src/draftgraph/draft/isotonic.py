"""Isotonic regression: the nearest numbers that do not increase."""

from __future__ import annotations

from collections.abc import Sequence


def pooled(gains: Sequence[float]) -> list[float]:
    """Pool adjacent gains until they do not increase, so that taking the largest first respects their order."""
    blocks: list[tuple[float, int]] = []
    for gain in gains:
        blocks.append((gain, 1))
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (a, n), (b, m) = blocks[-2], blocks[-1]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return [gain for gain, count in blocks for _ in range(count)]
