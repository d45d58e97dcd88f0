"""What a drafter is: it proposes drafts, and says what rules, budgets and backends have to know of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from draftgraph.backends.base import CacheHandle, CausalLM
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.base import Structure
from draftgraph.draft.structures.own import Own
from draftgraph.draft.terms import Draft, Limits, Overlap
from draftgraph.sampling.laws import TargetLaws
from draftgraph.types import Verdict

if TYPE_CHECKING:
    from draftgraph.request.state import Request


class Drafter(ABC):
    """Proposes a draft for every round. Subclass it and write `propose`; everything else has a default.

    draws      kinds of its slots above temperature 0, of "fixed" and "sampled".
    structure  what its drafts look like, for rules and budgets: `dg.structures.Chain()` promises chains. None: it grows whatever
               structure the engine was given. By default any tree.
    model      the causal LM that it runs, if any: its passes are timed and its window bounds the text.
    taps       names of the target's hidden states that it reads (`CausalLM.forward`); `read` is given them.
    edges      names of the edge sources that it copies from. Copies may pay where drafts do not.
    identity   names it in tables of costs, which are then kept between processes. None: it is timed once per engine.
    heeds_prices  True: it leaves out slots below `limits.floor` and passes below `limits.price_pass(…)`, so that the automatic
               budget may leave the number of nodes to it.
    depths     tokens that its drafts may be deep, along one path with leaves beside it; None: of any depth and shape.
    confident  True: it says how sure it is of every token where the rule asks (`DraftGraph.confidence`).
    trusted    True leaves out the checks of every law that it states. The prover is the better place for them.
    goes_on    True: `pending` tells what it has drafted beyond the last verdict, and `propose` goes on from there.

    What a drafter keeps of one request belongs into `request.drafting`, which is its own. An engine may serve several requests
    at once, so nothing of a request belongs into the drafter itself. Their drafts take turns in one thread: where a draft model
    is asked for a pass, those of others go on. So hold no lock there.
    """

    draws: Sequence[str] = ("fixed", "sampled")
    structure: Structure | None = Own()
    model: CausalLM | None = None
    taps: Sequence[str] = ()
    edges: Sequence[str] = ()
    identity: str | None = None
    heeds_prices: bool = False
    depths: int | None = None
    confident: ClassVar[bool] = False
    trusted: ClassVar[bool] = False
    goes_on: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return type(self).__name__

    def copies(self, structure: Structure) -> bool:
        """Whether drafts of this structure hold copies along edges."""
        return bool(self.edges)

    def prefill(self, request: Request, limits: Limits) -> bool:
        """Read one piece of a text that is too long for one pass, if the next draft needs it. Whether there was one.

        Called before a round until it returns False, and after `begin`. limits  those of the round.
        """
        return False

    def pending(self, request: Request) -> Draft:
        """What is drafted behind the text and was not judged yet: one path, with which the next proposal begins.

        Nothing, where drafts do not outlive their round. Which tokens stay must not look at those that stay, nor below them.
        """
        return Draft(DraftGraph())

    @abstractmethod
    def propose(self, request: Request, limits: Limits) -> Draft:
        """The draft of the next round, which continues `request.tokens`.

        limits  budget: nodes at most. reach: depth that no node may exceed. depth: levels that are worth drafting.
                All are at least 1, but for the depth of a drafter with `edges`: 0 asks it for copies alone.

        A SAMPLED slot states the exact law of its token given everything in upper levels and the slots drawn before it in its
        own. Whether a slot exists must not look at tokens that are drawn in its level or below (docs/layer_rule.md, A1 and A2).
        `dg.prove(rule, drafter=...)` tells.
        """

    def begin(self, request: Request) -> None:  # noqa: B027
        """A request begins; its prompt is `request.tokens`."""

    def cached(self, request: Request) -> CacheHandle | None:
        """What `model` has cached of a request, for `CausalLM.share`; None if nothing can be shared."""
        return None

    def read(self, request: Request, taps: Mapping[str, torch.Tensor], path: Sequence[int]) -> None:  # noqa: B027
        """The target has read rows of the request: after every pass, pieces of a long text included, before `observe`.

        taps  f[rows, width] by name, the hidden states that `self.taps` asks for; none without. First come the tokens that
              joined the text for good, `request.tokens` from where the last pass ended, then the nodes of the draft.
        path  the nodes that were accepted.

        The last committed token has not been read when the next draft is asked for, and before the first round nothing has.
        """

    def observe(  # noqa: B027
        self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, p: torch.Tensor
    ) -> None:
        """The round is verified, and not yet committed: which path was accepted, and the target's rows.

        scores  f[N + 1, V], the target's logits before the temperature: row 0 at the root, row i + 1 at node i.
        p       f[N + 1, V], its laws.

        Later drafts may look at all of it.
        """

    def verified(
        self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, laws: TargetLaws
    ) -> None:
        """What the engine calls: `observe`, for which laws that are point masses have to be spelt out."""
        self.observe(request, draft, verdict, scores, laws.p)

    def overlap(self, request: Request) -> Overlap | None:
        """What drafter and target had in common so far; None where the drafter does not count it."""
        return None

    def end(self, request: Request) -> None:  # noqa: B027
        """A request is over, or has failed. Called once for every `begin`, whether or not that came to its end."""

    def fresh(self) -> Drafter:
        """A drafter of the same kind that has learnt from no request, to be timed. Itself, if it learns nothing."""
        return self
