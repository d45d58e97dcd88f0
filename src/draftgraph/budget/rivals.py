"""How much a drafter gives where copies promise much: text that was seen before is easier for both.

Its mean alone would mislead. Copies take the rounds in which they promise most, and the drafter has the others, where it gives
less than it would give everywhere. So its tokens are taken for a line over what copies promised at the same place, fitted to the
rounds that it drafted. Those just below the promise at which copies are preferred tell most.
"""

from __future__ import annotations

from dataclasses import dataclass

MEMORY = 64.0
"""Rounds that are remembered."""
USUAL, WEIGHT = 0.4, 8.0
"""The slope before anything was seen, and the sum of squares that stands for it."""


@dataclass
class Rivals:
    """Running sums over the rounds that were drafted: of 1, of what copies promised (x), of what was accepted (y), xx and xy."""

    rounds: float = 0.0
    promised: float = 0.0
    accepted: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def enter(self, promised: float, accepted: float) -> None:
        """Count a drafted round. promised  tokens that copies were expected to give. accepted  that were."""
        keep = 1.0 - 1.0 / MEMORY
        self.rounds = keep * self.rounds + 1.0
        self.promised = keep * self.promised + promised
        self.accepted = keep * self.accepted + accepted
        self.squares = keep * self.squares + promised * promised
        self.products = keep * self.products + promised * accepted

    @property
    def slope(self) -> float:
        """Tokens more that are accepted where copies promise one more."""
        if self.rounds == 0.0:
            return USUAL
        mean = self.promised / self.rounds
        varied = max(0.0, self.squares - mean * self.promised)
        together = self.products - mean * self.accepted
        return max(0.0, (together + USUAL * WEIGHT) / (varied + WEIGHT))

    def more(self, promised: float) -> float:
        """Tokens more than usual that are accepted where copies promise so much."""
        usual = self.promised / self.rounds if self.rounds else 1.0
        return self.slope * max(0.0, promised - usual)
