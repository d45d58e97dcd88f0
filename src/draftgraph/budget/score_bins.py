"""How often the target confirms nodes, by their scores: what a score has to be for a node to be worth its row."""

from __future__ import annotations

from bisect import bisect_right

LOWER_ENDS = (0.0, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Of the bins of a node's score."""
PRIOR_NODES = 6.0
"""Nodes per bin that are taken to confirm their scores before any were seen."""
FORGET = 0.02
"""Share of what a bin knows that it forgets per round, back to the prior: what is never tried would never be tried again."""


class ScoreBins:
    """Running sums per bin of scores: what nodes promised, and how many of them were accepted."""

    def __init__(self) -> None:
        middles = [(low + high) / 2.0 for low, high in zip(LOWER_ENDS, (*LOWER_ENDS[1:], 1.0), strict=True)]
        self._prior = [PRIOR_NODES * score for score in middles]
        self._promised, self._confirmed = list(self._prior), list(self._prior)

    def enter(self, score: float, accepted: float) -> None:
        """Count a verified node, which was accepted with that chance."""
        b = bisect_right(LOWER_ENDS, score) - 1
        self._promised[b] += score
        self._confirmed[b] += accepted

    def expected(self, score: float) -> float:
        """The chance that the target accepts a node of this score, as counted in its bin."""
        b = bisect_right(LOWER_ENDS, score) - 1
        return min(1.0, score * self._confirmed[b] / self._promised[b])

    def forget(self) -> None:
        """A round is over."""
        if self._promised == self._confirmed == self._prior:
            return
        for sums in (self._promised, self._confirmed):
            sums[:] = [known + FORGET * (prior - known) for known, prior in zip(sums, self._prior, strict=True)]

    def floor(self, price: float) -> float:
        """The least score from which on the target accepts nodes as often as `price` demands, by the counts of their bins."""
        floor = high = 1.0
        for low, promised, confirmed in zip(LOWER_ENDS[::-1], self._promised[::-1], self._confirmed[::-1], strict=True):
            score = max(low, price * promised / max(confirmed, 1e-9))
            if score < high:
                floor = score
            if score > low:
                break
            high = low
        return floor
