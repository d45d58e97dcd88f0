"""How many rows a pass gets. Another number than last time costs extra, and a few rows more cost little.

A larger size is taken at once. It is left when the rows that it was too large by have cost as much as a change: whoever knows
nothing of the passes to come pays at most twice what the best choice would have cost (the rule of rent or buy).
"""

from __future__ import annotations

from draftgraph.backends.openvino.precision import Precision

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
"""Numbers of rows that small passes are padded to. Larger passes are not padded: their rows cost more than the change."""
CHANGE, ROUNDED_CHANGE = 3, 16
"""Rows that cost as much as a change: in float32, and where products are rounded, so that rows cost less and changes more."""


class Buckets:
    """The sizes of one graph's passes, one after the other."""

    def __init__(self, precision: Precision) -> None:
        self._change = CHANGE if precision.exact else ROUNDED_CHANGE
        self._held = self._largest = self._wasted = 0

    def size(self, rows: int) -> int:
        """Rows of the next pass, at least `rows` > 0."""
        if rows > SIZES[-1]:
            self._hold(0)
            return rows
        needed = next(size for size in SIZES if size >= rows)
        self._largest = max(self._largest, needed)
        self._wasted += self._held - needed
        if needed >= self._held:
            self._hold(needed)
        elif self._wasted >= self._change:
            self._hold(self._largest)
        return self._held

    def _hold(self, size: int) -> None:
        self._held, self._largest, self._wasted = size, 0, 0
