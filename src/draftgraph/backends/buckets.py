"""How many rows a pass gets, where another number than last time costs extra and a few rows more cost hardly anything."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Buckets:
    """The sizes of one graph's passes, one after the other.

    A larger size is taken when it is needed. A smaller one is taken once the rows computed for nothing since then have cost as
    much as a change does. So waiting costs no more than what it may save.

    sizes  that passes are padded to, rising. Larger passes are not padded: their rows cost more than the change.
    waste  rows that cost about as much as a change of size.
    held   the size of the last pass; 0 before the first one, and after one that was not padded.
    """

    def __init__(self, sizes: Sequence[int], waste: float) -> None:
        self.sizes, self.waste = sizes, waste
        self.held = 0
        self._wasted, self._enough = 0, 0

    def size(self, rows: int) -> int:
        """Rows of the next pass, at least `rows` > 0."""
        if rows > self.sizes[-1]:
            self._hold(0)
            return rows
        needed = self.sizes[bisect_left(self.sizes, rows)]
        self._wasted += self.held - needed
        self._enough = max(self._enough, needed)
        if needed >= self.held:
            self._hold(needed)
        elif self._wasted > self.waste:
            self._hold(self._enough)
        return self.held

    def _hold(self, size: int) -> None:
        self.held, self._wasted, self._enough = size, 0, 0
