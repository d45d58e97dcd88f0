"""How often a request looks for copies where none come. Looking takes time too, and a pass may be so short that it tells."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

LOOK_SECONDS = 3e-4
"""What a round takes more that looks for copies and keeps the target's row, about (docs/decisions.md, 2026-11-29)."""
LOOKS_SHARE = 0.02
"""Of the time that looks may take where they find nothing."""
PATIENCE_MULTIPLE = 4.0
"""At the beginning, and after every look that has saved time, looks are taken to save this multiple of what they take."""
MEMORY_LOOKS = 16.0
"""Looks that a running mean remembers."""


@dataclass
class Looks:
    """Decides for one request; `due` is asked once before every round in which nothing but copies may be drafted.

    plain  seconds per token of plain decoding.
    """

    plain: float
    _saved: float = PATIENCE_MULTIPLE * LOOK_SECONDS
    _rests: int = field(init=False)
    _left: int = field(init=False)

    def __post_init__(self) -> None:
        self._rests = self._left = math.ceil(LOOK_SECONDS / (LOOKS_SHARE * self.plain)) - 1

    def due(self) -> bool:
        """Whether the next round looks."""
        if self._saved >= LOOK_SECONDS or self._left == 0:
            self._left = self._rests
            return True
        self._left -= 1
        return False

    def learn(self, saved: float) -> None:
        """A round has looked, and saved so many seconds; below zero it has lost them."""
        if saved > 0.0:
            self._saved = max(self._saved, PATIENCE_MULTIPLE * LOOK_SECONDS)
        self._saved += (saved - self._saved) / MEMORY_LOOKS
