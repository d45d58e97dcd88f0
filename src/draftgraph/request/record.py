"""One record per round: what was drafted, what was accepted, what it cost. Viewers and benchmarks read nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from draftgraph.types import ROOT

COPIES = "copies"
"""The kind of reason of a draft of copies alone."""


@dataclass(frozen=True)
class RoundRecord:
    """One round of one request.

    length    committed length (prompt included) at the round's start.
    tokens, parents, sampled, origins, scores   the verified nodes, in TokenTree order; `sampled` says which laws are SAMPLED,
              `scores` are the drafter's estimates of how likely the target is to reach each node.
    drafted_at  for every node the place whose row its token was taken from: by its origin a node of this round ("drafter": its
              parent; "merge"), a position in prompt and output ("own", "context") or in the text that the user predicted
              ("text"), a node of the last round ("rejected"), a row of the token table ("table"). None where a merge took it
              from a node that was not sent to the target.
    path      accepted nodes from the root down. bonus  the token that follows them.
    emitted   how many of (path + bonus) were emitted before a stop or the length limit.
    num_passes, num_evaluations   drafter passes, and rows they computed. A pass that reads a chain counts once per token.
    seconds   wall seconds of this request by part (`stats.PARTS`); of what requests share, its share by rows. The first round
              has the prompt's as well.
    reason    why so much was drafted: "draft", "copies", "plain", "probe" or "fixed", a colon, and the figures.
    p, q, masses  per node: the target's probability of its token behind its parent; the probability under the law that it was
              drawn from, None for a FIXED slot; the probability with which the rule let the accepted path pass through it, given
              the draft. Empty in traces of earlier versions.
    onward    tokens that were drafted behind the nodes while the target scored them (schedule="parallel"). Where the text agrees
              with them, the next round verifies what is left of them.
    overlapped  seconds of the target's pass in which that happened; they are in none of `seconds`.
    rival     tokens that copies alone were expected to give in the place of what was drafted; 1 where there were none.
    """

    length: int
    tokens: Sequence[int]
    parents: Sequence[int]
    sampled: Sequence[bool]
    origins: Sequence[str]
    scores: Sequence[float]
    drafted_at: Sequence[int | None]
    path: tuple[int, ...]
    bonus: int
    emitted: int
    num_passes: int
    num_evaluations: int
    seconds: dict[str, float]
    reason: str = ""
    p: Sequence[float] = ()
    q: Sequence[float | None] = ()
    masses: Sequence[float] = ()
    onward: Sequence[int] = field(default_factory=list)
    overlapped: float = 0.0
    rival: float = 1.0

    @property
    def decision(self) -> str:
        """The kind of reason."""
        return self.reason.partition(":")[0] or "fixed"

    def depths(self) -> list[int]:
        """The depth of every node; children of the root have depth 1."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return depths

    @property
    def chances(self) -> Sequence[float]:
        """For every node the chance that the accepted path came there, given the draft: `masses`, or what happened."""
        return self.masses or [float(node in self.path) for node in range(len(self.tokens))]


def decisions(rounds: Sequence[RoundRecord]) -> dict[str, int]:
    """Rounds by kind of reason, in the order in which the kinds first occurred."""
    return dict(Counter(record.decision for record in rounds))
