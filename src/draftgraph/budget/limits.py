"""How much a round may draft and verify."""

from __future__ import annotations

from dataclasses import replace

from draftgraph.draft.terms import Limits
from draftgraph.request.state import Request


def limits(budget: int | str, depth: int | None, request: Request, window: int | None) -> Limits:
    """The limits of the next round of `request`.

    budget, depth  what was asked for: nodes, or "auto"; tokens, or None. window  the target's context window in tokens.
    """
    reach = request.remaining - 1  # the bonus token is the last one
    if window is not None:
        reach = min(reach, window - len(request.tokens))
    structure = request.choice.structure
    whole = structure.whole(reach)
    if budget == "auto" and whole is not None:
        return whole
    if request.plan is not None:
        planned: Limits = request.plan(len(request.tokens), request.rounds, reach)
        # Without passes the depth that was asked for is that of the copies.
        return planned if depth is None or planned.depth else replace(planned, reach=min(reach, depth))
    return structure.limits(int(budget), depth, reach)
