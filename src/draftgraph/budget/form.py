"""One form of drafts (the structure's own, or a chain): how fast it is expected to be, by the table and by what was counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from draftgraph.budget.costs import Costs
from draftgraph.budget.ledger import Ledger
from draftgraph.budget.offers import Level, Offer
from draftgraph.draft.terms import Limits
from draftgraph.request.record import RoundRecord

MOST_DRAFTED = 64
"""Nodes of a round whose size prices decide."""
NEAR = 0.95
"""Of depths whose rates are so near to the best one a fixed shape gets the largest: what is never drafted is never learnt."""
HOPE = 0.75
"""A pass is made if it is expected to earn this share of its price: a little too deep costs little and is noticed, a little too
shallow is not."""


class Expected(NamedTuple):
    """The depth to draft to, at least 1; the best tokens per second of any depth; tokens per round there."""

    depth: int
    rate: float
    tokens: float


@dataclass
class Form:
    """costs    of rounds whose drafts have this form.
    deepest  levels at most.
    width    nodes per level of a structure whose shape does not look at scores (a chain's is 1); None: prices shape the draft.
    narrow   whether it is a chain where the structure would branch.
    """

    costs: Costs
    deepest: int
    width: int | None = None
    narrow: bool = False
    ledger: Ledger = field(init=False)
    _known: Expected | None = None

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.costs.levels, self.deepest)
        self._target = [self.costs.verifying(nodes) for nodes in range(MOST_DRAFTED + 1)]

    @property
    def most(self) -> float:
        """Tokens per second if all that is drafted were accepted."""
        each, one = [1.0] * self.deepest, self.costs.drafter_pass(1.0)
        return max((1.0 + depth) / self._seconds(depth, each, each, one) for depth in self._depths())

    def learn(self, record: RoundRecord, asked: int) -> None:
        """Count a round whose draft had this form and was allowed to be `asked` deep."""
        self.ledger.enter(record, asked)
        self._known = None

    def hear(self, record: RoundRecord, asked: int, other: Form) -> None:
        """Learn from a round whose draft had another form: what misses there misses here as often as it did while timed."""
        self.ledger.hear(len(record.path), asked, self.ledger.usual_miss / other.ledger.usual_miss)
        self._known = None

    def doubt(self) -> None:
        """Drafting no longer pays. All counts fade alike, so that no share of them changes."""
        self.ledger.doubt()

    def expected(self) -> Expected:
        """What drafts of this form are worth now."""
        if self._known is None:  # rounds that count nothing new shall cost nothing
            self._known = self._best()
        return self._known

    def _best(self) -> Expected:
        counts, survival = self.ledger.depths, self.ledger.survival()
        passes = [c.passes / c.rounds for c in counts]
        nodes = [c.nodes / c.rounds for c in counts]
        tokens = [1.0 + self.ledger.beyond + reached for reached in accumulate(survival)]
        one, spare = self.costs.drafter_pass(self.ledger.rows), self.ledger.spare
        rates = [tokens[depth - 1] / self._seconds(depth, passes, nodes, one, spare) for depth in self._depths()]
        best = max(rates)
        near = self.deepest if self.width is None else max(d for d, rate in enumerate(rates, 1) if rate >= NEAR * best)
        return Expected(near, best, tokens[rates.index(best)])

    def _seconds(
        self, depth: int, passes: Sequence[float], nodes: Sequence[float], one: float, spare: float = 0.0
    ) -> float:
        """Seconds of a round drafted `depth` deep, by the table; a pass takes `one`."""
        return self._verifying(spare + sum(nodes[:depth])) + sum(passes[:depth]) * one

    def _verifying(self, nodes: float) -> float:
        low = min(int(nodes), MOST_DRAFTED - 1)
        return self._target[low] + (nodes - low) * (self._target[low + 1] - self._target[low])

    def _depths(self) -> range:
        return range(1, self.deepest + 1)

    def limits(self, reach: int) -> Limits:
        """The limits of a round with a draft of this form, as prices want it."""
        depth, rate, _ = self.expected()
        return self.priced(depth, reach, rate * self._slope(), [rate * self.costs.drafter_pass(1.0)] * depth)

    def priced(self, depth: int, reach: int, row: float, made: Sequence[float]) -> Limits:
        """The limits of a draft at most `depth` deep. row, made  what a row and every drafter pass cost, in tokens."""
        levels = zip(made[1:depth], self.ledger.depths[1:depth], strict=True)
        deeper = [HOPE * (one + row) / counts.gain for one, counts in levels]
        return Limits(
            MOST_DRAFTED if self.width is None else min(MOST_DRAFTED, self.width * depth),
            depth,
            reach,
            floor=self.ledger.drafted.floor(row),
            price_passes=(0.0, *deeper),  # that the first one is made has been decided
            spread=False,
            narrow=self.narrow,
        )

    def offer(self, depth: int) -> Offer:
        """A draft of this form, `depth` levels, as the rounds before have counted them."""
        counted = zip(self.ledger.survival(), self.ledger.depths, strict=True)
        levels = [Level(chance, each.nodes / each.rounds, each.passes / each.rounds) for chance, each in counted]
        return Offer(levels[:depth], self.ledger.rows)

    def _slope(self) -> float:
        """Seconds per node of the cheapest size near the one that drafts have now.

        Some more nodes may cost less than these: where the second row is dear and the fourth is free, drafts of one node would
        else never become drafts of three.
        """
        usual = self.ledger.spare + sum(c.nodes / c.rounds for c in self.ledger.depths)
        nodes = max(1, min(MOST_DRAFTED, round(usual)))
        sizes = range(nodes, min(MOST_DRAFTED, 2 * nodes + 2) + 1)
        return max(0.0, min((self._target[size] - self._target[0]) / size for size in sizes))
