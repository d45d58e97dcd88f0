"""How much a round may draft and verify."""

from __future__ import annotations

from dataclasses import replace

from draftgraph.draft.terms import Limits
from draftgraph.request.state import Request


def limits(
    budget: int | str, depth: int | None, request: Request, window: int | None, switch: int | None = None
) -> Limits:
    """The limits of the next round of `request`.

    budget, depth  what was asked for: nodes, or "auto"; tokens, or None. window  the target's context window in tokens.
    switch  tokens of a text beyond which the target computes otherwise; no draft reaches over it.
    """
    length = len(request.tokens)
    reach = request.remaining - 1  # the bonus token is the last one
    if window is not None:
        reach = min(reach, window - length)
    if switch is not None and length <= switch:
        reach = min(reach, switch - length)
    structure = request.choice.structure
    whole = structure.whole(reach)
    if budget == "auto" and whole is not None:
        return whole
    if request.plan is not None:
        planned: Limits = request.plan(len(request.tokens), request.rounds, reach)
        # Without passes the depth that was asked for is that of the copies.
        return planned if depth is None or planned.depth else replace(planned, reach=min(reach, depth))
    return structure.limits(int(budget), depth, reach)
