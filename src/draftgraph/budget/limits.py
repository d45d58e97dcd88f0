"""How much a round may draft and verify."""

from __future__ import annotations

from dataclasses import dataclass, replace

from draftgraph.backends.base import CausalLM
from draftgraph.draft.base import Drafter
from draftgraph.draft.terms import Limits
from draftgraph.request.state import Request


@dataclass(frozen=True)
class Windows:
    """How far the models of a round can read.

    target   tokens of a text that the target can read at most; None: any number.
    switch   tokens of a text beyond which the target computes otherwise; no draft reaches over it. None: it never does.
    drafter  tokens of a text that the drafter can read at most; None: any number, or it reads none.
    copies   whether the drafter has edge sources, which go on without it.
    computes  whether drafts take passes. False: all of them are copies, and a deep node costs no more than another.
    """

    target: int | None = None
    switch: int | None = None
    drafter: int | None = None
    copies: bool = False
    computes: bool = True

    @classmethod
    def of(cls, target: CausalLM, drafter: Drafter) -> Windows:
        read = None if drafter.model is None else drafter.model.context_window
        computes = drafter.model is not None or not drafter.edges
        return cls(target.context_window, target.switch, read, bool(drafter.edges), computes)

    def unable(self, length: int) -> str:
        """Why the drafter cannot draft behind a text of `length` tokens; empty if it can."""
        if self.drafter is None or length <= self.drafter:
            return ""
        return f"the text is beyond the drafter's window of {self.drafter} tokens"

    def reach(self, length: int) -> int | None:
        """Depth that no node may exceed behind a text of `length` tokens; None: any."""
        bounds = []
        if self.target is not None:
            bounds.append(self.target - length)
        if self.switch is not None and length <= self.switch:
            bounds.append(self.switch - length)
        if self.drafter is not None and length <= self.drafter:
            bounds.append(self.drafter - length + 1)  # the deepest nodes are not read
        return min(bounds, default=None)


def limits(budget: int | str, depth: int | None, request: Request, windows: Windows) -> Limits:
    """The limits of the next round of `request`.

    budget, depth  what was asked for: nodes, or "auto"; tokens, or None.
    """
    length = len(request.tokens)
    reach = request.remaining - 1  # the bonus token is the last one
    bound, unable = windows.reach(length), windows.unable(length)
    if bound is not None:
        reach = min(reach, bound)
    structure = request.choice.structure
    whole = structure.whole(reach)
    if request.plan is not None:
        planned: Limits = request.plan(length, request.rounds, reach, unable)
        return planned
    found = whole if budget == "auto" and whole is not None else structure.limits(int(budget), depth, reach)
    if depth is None and structure.best_first and not windows.computes:
        found = replace(found, depth=0)  # as deep as the likeliest copies are
    return _copied(found, depth, unable, windows.copies) if unable and found.budget else found


def _copied(found: Limits, depth: int | None, unable: str, copies: bool) -> Limits:
    """The limits of a draft of copies alone, or of none."""
    if not copies:
        return replace(found, budget=0, reason=f"plain: {unable}")
    return replace(found, depth=0, reach=min(found.reach, depth or found.reach), reason=f"copies: {unable}")
