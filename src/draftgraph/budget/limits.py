"""How much a round may draft and verify."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from operator import mul

from draftgraph.config import Config
from draftgraph.draft.base import Limits
from draftgraph.request.state import Request

MIN_MASS = 0.02
"""A slot that the target will reach less often than this is not worth a row."""


def limits(config: Config, request: Request, window: int | None) -> Limits:
    """The limits of the next round of `request`; `window` is the target's context window in tokens."""
    reach = request.remaining - 1  # the bonus token is the last one
    if window is not None:
        reach = min(reach, window - len(request.tokens))
    structure, depth = config.resolved_structure, config.num_speculative_tokens
    if config.budget == "auto" and config.branching is not None:  # the shape says how many
        return Limits(sum(accumulate(config.branching, mul)), len(config.branching), reach)
    if request.plan is not None:
        planned: Limits = request.plan(len(request.tokens), request.rounds, reach)
        # Without passes the depth that was asked for is that of the copies.
        return planned if depth is None or planned.depth else replace(planned, reach=min(reach, depth))
    budget = int(config.budget)
    if structure == "chain":  # its length is what was asked for
        return Limits(budget, depth or budget, reach)
    if structure == "paths":
        return Limits(budget, depth or _length(budget), reach)
    return Limits(budget, depth or max(1, min(8, (budget + 2) // 2)), reach, floor=MIN_MASS)


def _length(budget: int) -> int:
    """Of paths: about three of them, or more that are 8 tokens long."""
    return max(1, min(8, (budget + 1) // 3))
