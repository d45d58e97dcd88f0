"""How much a round may draft and verify."""

from __future__ import annotations

import torch

from draftgraph.config import Config
from draftgraph.draft.base import Limits
from draftgraph.request import Request

AUTO_CPU = {"budget": 16, "depth": 8, "floor": 0.1, "price_pass": 0.5}
"""Where every row of the target costs: a cap, and prices in tokens for a slot and for a drafter pass."""
AUTO_GPU = {"budget": 64, "depth": 8}
"""Where rows are nearly free up to about 64."""


def limits(config: Config, request: Request, window: int | None, device: torch.device) -> Limits:
    """The limits of the next round of `request`; `window` is the target's context window in tokens."""
    reach = request.remaining - 1  # the bonus token is the last one
    if window is not None:
        reach = min(reach, window - len(request.tokens))
    auto = AUTO_CPU if device.type == "cpu" else AUTO_GPU
    if config.budget == "auto":
        depth = config.num_speculative_tokens or int(auto["depth"])
        spread = device.type != "cpu"
        return Limits(int(auto["budget"]), depth, reach, auto.get("floor", 0.0), auto.get("price_pass", 0.0), spread)
    budget = int(config.budget)
    deepest = budget if config.resolved_structure == "chain" else (budget + 2) // 2
    depth = config.num_speculative_tokens or max(1, min(8, deepest))
    return Limits(budget, depth, reach, floor=MIN_MASS)


MIN_MASS = 0.02
"""A slot that the target will reach less often than this is never worth a row."""
