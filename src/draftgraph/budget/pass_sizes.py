"""What a round with copies alone costs, as the last round leaves the target: a pass of another size than the last one is dearer.

Sizes are known by the request's own rounds alone, so that its drafts do not depend on who else uses the target.
"""

from __future__ import annotations

from collections.abc import Sequence

from draftgraph.backends.buckets import Buckets
from draftgraph.budget.costs import Costs

CHANGES_UPWARD = 2.0
"""Changes that a larger size is taken to cost: most texts come back soon to the size that they had."""
DWELL_ROUNDS = 3
"""Rounds that are taken to go on with a smaller size, once it is taken: each pays its share of the change."""

STEP_TOKENS = 32
"""Tokens by which a text grows before what it takes to read it is counted anew."""


class PassSizes:
    """The sizes of one request's passes, and what the next one costs.

    most  copies of a round.
    """

    def __init__(self, costs: Costs, most: int) -> None:
        self._steady = costs.whole_each[: most + 1]
        self._target, self._context = costs.target, costs.context
        waste = self._target.change_rows
        self._buckets = Buckets(self._target.sizes, waste) if waste else None
        self._known: dict[int, Sequence[float]] = {0: self._steady}
        self._behind: dict[tuple[int, int], Sequence[float]] = {}

    def passed(self, rows: int) -> None:
        """The target has read so many rows for this request."""
        if self._buckets is not None:
            self._buckets.size(rows)

    def behind(self, length: int) -> Sequence[float]:
        """`seconds` behind so many tokens of text, which every row reads."""
        steps = max(0, length - self._context) // STEP_TOKENS
        far, held = self._target.reading * STEP_TOKENS * steps, 0 if self._buckets is None else self._buckets.held
        if far == 0.0:
            return self.seconds()
        if (held, steps) not in self._behind:
            self._behind = {  # texts only grow
                (held, steps): [
                    seconds + far * self._target.padded(nodes + 1) for nodes, seconds in enumerate(self.seconds())
                ]
            }
        return self._behind[held, steps]

    def path(self, length: int) -> float:
        """Seconds more per path beside the first behind so many tokens, where paths are sequences of their own."""
        return self._target.path + self._target.path_reading * max(0, length - self._context)

    def seconds(self) -> Sequence[float]:
        """Of a round that verifies 0, 1, … copies; without any it is plain decoding."""
        held = 0 if self._buckets is None else self._buckets.held
        if held not in self._known:
            self._known[held] = [
                seconds + self._more(held, self._target.padded(nodes + 1)) for nodes, seconds in enumerate(self._steady)
            ]
        return self._known[held]

    def _more(self, held: int, size: int) -> float:
        """Seconds more of a pass of this size than if the last one had had it too."""
        if size == held:
            return 0.0
        return self._target.change * (CHANGES_UPWARD if size > held else 1.0 / DWELL_ROUNDS)
