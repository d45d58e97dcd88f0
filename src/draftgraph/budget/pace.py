"""How much a drafter drafts while the target verifies: as much as takes as long (PEARL, arXiv 2408.11850, §4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from draftgraph.budget.costs import Costs
from draftgraph.draft.terms import Limits
from draftgraph.request.record import RoundRecord

MOST_ONWARD = 16
"""Tokens that a round drafts at most: more of them would mostly be drafted for another text."""


@dataclass(frozen=True)
class Pace:
    """Drafts equally many tokens in every round. why  in words."""

    length: int
    why: str

    def __call__(self, length: int, rounds: Sequence[RoundRecord], reach: int, unable: str = "") -> Limits:
        """The limits of the next round, as a request's plan states them."""
        if unable or reach == 0:
            return Limits(0, 0, reach, reason=f"plain: {unable or 'the next token is the last one'}")
        return Limits(self.length, self.length, reach, reason=f"draft: {self.why}")


def keeping_step(costs: Costs) -> Pace:
    """The fewest tokens γ that take the drafter as long as the target takes to verify γ of them: γ·c >= T(γ).

    costs  measured with the threads that each model will have.
    """
    one = costs.drafter_pass(1.0)
    length = next((n for n in range(1, MOST_ONWARD) if n * one >= costs.verifying(n - 1)), MOST_ONWARD)
    told = f"{1e3 * costs.verifying(length - 1):.2f} ms of the target, {1e3 * one:.2f} ms per drafted token"
    return Pace(length, f"{length} tokens meanwhile, {told}; costs {costs.note}")


def parallel_tokens(acceptance: float, length: int) -> float:
    """Tokens per round in the long run, if every drafted token is accepted with this chance, whatever came before.

    Rounds where nothing is pending emit one token, and go on with chance a. Rounds that judge γ tokens emit
    1 + a + … + a^(γ - 1), and go on with chance a^γ.
    """
    chances = [acceptance**i for i in range(length + 1)]
    share = acceptance / (1.0 - chances[length] + acceptance) if length > 1 and acceptance > 0.0 else 0.0
    return 1.0 - share + share * sum(chances[:length])
