"""A draft asked of a drafter, and looked at before it is verified."""

from __future__ import annotations

from draftgraph.draft.base import Drafter
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.terms import Draft, Limits
from draftgraph.errors import DrafterError, DraftError, DraftgraphError
from draftgraph.request.state import Request
from draftgraph.types import TokenTree
from draftgraph.verification.check import check_draws, check_rows, check_slots


def propose(drafter: Drafter, request: Request, limits: Limits) -> Draft:
    """What a drafter proposes; nothing, unasked, where nothing can be verified.

    Raises DrafterError if it fails, DraftError for a draft that cannot be verified.
    """
    if limits.budget == 0 or limits.reach == 0:
        return Draft(DraftGraph(), reason=limits.reason, unasked=True)
    with failing(drafter, "proposing"):
        draft = drafter.propose(request, limits)
        if not isinstance(draft, Draft):
            raise DrafterError(f"the drafter {drafter.name} proposed {draft!r}; return dg.Draft(graph)")
        tree = draft.tree
    draft.reason = draft.reason or limits.reason
    if len(tree):
        _check(drafter, draft, tree, request, limits)
    return draft


def _check(drafter: Drafter, draft: Draft, tree: TokenTree, request: Request, limits: Limits) -> None:
    if len(tree) > limits.most_nodes:
        raise DraftError(
            f"the drafter {drafter.name} proposed {len(tree)} nodes, and this round verifies {limits.most_nodes}; stop at "
            "limits.budget"
        )
    if max(tree.depths) > limits.reach:
        raise DraftError(
            f"the drafter {drafter.name} proposed a node of depth {max(tree.depths)}, and no node may be deeper than "
            f"{limits.reach} here; stop at limits.reach"
        )
    check_slots(tree, request.vocab_size)
    if not drafter.trusted:
        _check_laws(drafter, draft, tree, request)


def _check_laws(drafter: Drafter, draft: Draft, tree: TokenTree, request: Request) -> None:
    """What costs more than a look at some integers: every law, and whether the rule verifies such drafts."""
    if tree.laws is not None:
        if tree.laws.device != request.warper.device:
            raise DraftError(
                f"the drafter {drafter.name} states laws on {tree.laws.device}, and the target is on {request.warper.device}; "
                "write law.to(request.device)"
            )
        check_rows("laws", tree.laws, request.vocab_size)
        check_draws(tree)
    if not all(0.0 <= score <= 1.0 for score in draft.graph.scores):
        raise DraftError(
            f"the drafter {drafter.name} gives scores that are no probabilities; write numbers from 0 to 1"
        )
    request.choice.rule.check(tree)


class failing:  # noqa: N801  # used as a function
    """Whatever a drafter raises becomes a DrafterError that names it; want of memory is nobody's fault and stays itself."""

    __slots__ = ("doing", "drafter")

    def __init__(self, drafter: Drafter, doing: str) -> None:
        self.drafter, self.doing = drafter, doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, DraftgraphError | MemoryError):
            raise DrafterError(
                f"the drafter {self.drafter.name} failed while {self.doing}: {type(error).__name__}: {error}"
            ) from error
