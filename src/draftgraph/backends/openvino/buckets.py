"""How many rows a pass gets. Another number than last time costs extra, and a few rows more cost hardly anything."""

from __future__ import annotations

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
"""Numbers of rows that small passes are padded to. Larger passes are not padded: their rows cost more than the change."""
PATIENCE = 8
"""Passes that a smaller size must have been enough for, one after the other, before it is taken."""
WASTE = 3
"""A size that is so many times what is needed is left at once."""


class Buckets:
    """The sizes of one graph's passes, one after the other."""

    def __init__(self) -> None:
        self._held = 0
        self._enough: list[int] = []

    def size(self, rows: int) -> int:
        """Rows of the next pass, at least `rows` > 0."""
        if rows > SIZES[-1]:
            self._hold(0)
            return rows
        needed = next(size for size in SIZES if size >= rows)
        self._enough.append(needed)
        if needed >= self._held or needed * WASTE <= self._held:
            self._hold(needed)
        elif len(self._enough) == PATIENCE:
            self._hold(max(self._enough))
        return self._held

    def _hold(self, size: int) -> None:
        self._held, self._enough = size, []
