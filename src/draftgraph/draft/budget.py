"""How much a round may draft and verify."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from operator import mul

import torch

from draftgraph.config import Config
from draftgraph.draft.base import Limits
from draftgraph.request import Request

AUTO_CPU = Limits(budget=16, depth=8, reach=0, floor=0.04, price_pass=0.25)
"""Where every row of the target costs: prices in tokens for a slot and for a drafter pass. Tuned on two pairs."""
AUTO_GPU = Limits(budget=64, depth=8, reach=0)
"""Where rows are nearly free up to about 64."""
AUTO_CHAIN = 5
"""A chain has no branches whose mass could tell when to stop."""
MIN_MASS = 0.02
"""A slot that the target will reach less often than this is not worth a row."""


def limits(config: Config, request: Request, window: int | None, device: torch.device) -> Limits:
    """The limits of the next round of `request`; `window` is the target's context window in tokens."""
    reach = request.remaining - 1  # the bonus token is the last one
    if window is not None:
        reach = min(reach, window - len(request.tokens))
    structure, depth = config.resolved_structure, config.num_speculative_tokens
    if config.budget == "auto" and config.branching is not None:  # the shape says how many
        return Limits(sum(accumulate(config.branching, mul)), len(config.branching), reach)
    if config.budget == "auto":
        auto = AUTO_CPU if device.type == "cpu" else AUTO_GPU
        suits = {"chain": AUTO_CHAIN, "paths": _length(auto.budget)}.get(structure, auto.depth)
        return replace(auto, depth=depth or suits, reach=reach)
    budget = int(config.budget)
    if structure == "chain":  # its length is what was asked for
        return Limits(budget, depth or budget, reach)
    if structure == "paths":
        return Limits(budget, depth or _length(budget), reach)
    return Limits(budget, depth or max(1, min(8, (budget + 2) // 2)), reach, floor=MIN_MASS)


def _length(budget: int) -> int:
    """Of paths: about three of them, or more that are 8 tokens long."""
    return max(1, min(8, (budget + 1) // 3))
