"""How often a request looks for copies where none come. Looking takes time too, and a pass may be so short that it tells."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from draftgraph.budget.costs import Costs

LEAST_LOOK_SECONDS = 1e-4
"""A look is never taken to need less: what rounds with drafts take more outside the forwards may be lost in noise."""
LOOKED_AT = 4
"""Nodes that a look draws up, about, before it finds that none of them pays."""
LOOKS_SHARE = 0.02
"""Of the time that looks may take where they find nothing."""
PATIENCE_MULTIPLE = 4.0
"""At the beginning, and after every look that has saved time, looks are taken to save this multiple of what they take."""
MEMORY_LOOKS = 16.0
"""Looks that a running mean remembers."""


@dataclass
class Looks:
    """Decides for one request; `due` is asked once before every round in which nothing but copies may be drafted.

    costs  of rounds. Those with drafts keep the target's row and draw up a draft: so does a look, whatever it finds.
    """

    costs: Costs
    seconds: float = field(init=False)
    _saved: float = field(init=False)
    _rests: int = field(init=False)
    _left: int = field(init=False)

    def __post_init__(self) -> None:
        self.seconds = max(LEAST_LOOK_SECONDS, self.costs.look + LOOKED_AT * self.costs.overhead[2])
        self._saved = PATIENCE_MULTIPLE * self.seconds
        self._rests = self._left = math.ceil(self.seconds / (LOOKS_SHARE * self.costs.plain)) - 1

    def due(self) -> bool:
        """Whether the next round looks."""
        if self._saved >= self.seconds or self._left == 0:
            self._left = self._rests
            return True
        self._left -= 1
        return False

    def learn(self, saved: float) -> None:
        """A round has looked, and saved so many seconds; below zero it has lost them."""
        if saved > 0.0:
            self._saved = max(self._saved, PATIENCE_MULTIPLE * self.seconds)
        self._saved += (saved - self._saved) / MEMORY_LOOKS
