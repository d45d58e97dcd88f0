"""From tokens per target call to tokens per second, with the costs by which the engine itself decides (`Engine.costs`).

A round takes the drafter's passes, one pass of the target over the draft and the token before it, and the engine's own work
around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from draftgraph.budget.costs import Costs


@dataclass(frozen=True)
class Pace:
    """What a draft makes of its tokens per target call.

    speedup     over plain decoding. break_even  tokens per target call at which it would be 1; `tokens` below it lose.
    """

    tokens: float
    seconds: float
    tokens_per_second: float
    speedup: float
    break_even: float


def pace(costs: Costs, tokens: float, nodes: float, level_rows: Sequence[float]) -> Pace:
    seconds = costs.round(nodes, level_rows)
    return Pace(tokens, seconds, tokens / seconds, tokens * costs.plain / seconds, seconds / costs.plain)
