"""One form of drafts (the structure's own, or a chain): how fast it is expected to be, by the table and by what was counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from draftgraph.budget.costs import MOST_DRAFTED, Costs
from draftgraph.budget.ledger import Ledger, pool
from draftgraph.budget.offers import Level, Offer, Prices
from draftgraph.draft.terms import Limits
from draftgraph.request.record import RoundRecord

NEAR, SAME = 0.95, 0.98
"""Of depths whose rates are NEAR the best one a fixed shape without draws gets the largest: prices end its drafts early. With
draws, and where passes are padded, it keeps the last one while that has about the SAME rate: a change costs time."""
HOPE = 0.75
"""A pass is made if it is expected to earn this share of its price: a little too deep costs little and is noticed, a little too
shallow is not."""

BRANCHES, MEASURED = 1.3, 0.3
"""By which the odds of going on are better where drafts branch: 1.3 to 1.4 on two pairs at temperatures 0 and 1, counted in 150
rounds and more. What was measured counts so much beside that, for a few dozen rounds tell anything from .7 to 2."""


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
    draws    whether slots are SAMPLED, so that scores know nothing of the tokens.
    """

    costs: Costs
    deepest: int
    width: int | None = None
    narrow: bool = False
    draws: bool = False
    ledger: Ledger = field(init=False)
    _known: Expected | None = None
    _stale: bool = True

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.costs.levels, self.deepest, alike=self.width is not None)
        self._target = self.costs.verifying_each

    @property
    def most(self) -> float:
        """Tokens per second if all that is drafted were accepted."""
        one = self.costs.drafter_pass(1.0)
        return max((1.0 + depth) / (self._verifying(depth) + depth * one) for depth in range(1, self.deepest + 1))

    def learn(self, record: RoundRecord, asked: int) -> None:
        """Count a round whose draft had this form and was allowed to be `asked` deep. Its scores are weighed later."""
        self.ledger.enter(record, asked)
        self._stale = True

    def weigh(self, record: RoundRecord, asked: int) -> None:
        """Learn how much the scores of a round that was counted are worth, where prices look at scores."""
        if not self._padded:
            self.ledger.weigh(record, asked)
            self._stale = True

    def hear(self, record: RoundRecord, asked: int) -> None:
        """Learn from a round whose draft had another form."""
        self.ledger.hear(record, asked)
        self._stale = True

    def doubt(self) -> None:
        """Drafting no longer pays. All counts fade alike, so that no share of them changes."""
        self.ledger.doubt()

    @property
    def _padded(self) -> bool:
        """Whether shorter drafts cost the target as much as the longest ones: passes are padded to what they needed lately."""
        return self.width is not None and bool(self.costs.target.sizes)

    def expected(self) -> Expected:
        """What drafts of this form are worth now."""
        if self._stale or self._known is None:  # rounds that count nothing new shall cost nothing
            self._known, self._stale = self._best(), False
        return self._known

    def _best(self) -> Expected:
        one = self.costs.drafter_pass(self.ledger.rows)
        tokens, nodes, passes = 1.0 + self.ledger.beyond, self.ledger.spare, 0.0
        each, rates = [], []
        for counts, chance in zip(self.ledger.depths, self.ledger.survival(), strict=True):
            tokens += chance
            nodes += float(self.width or 0) if self._padded else counts.nodes / counts.rounds
            passes += counts.passes / counts.rounds
            each.append(tokens)
            rates.append(tokens / (self._verifying(nodes) + passes * one))
        best = max(rates)
        return Expected(self._depth(rates, best), best, each[rates.index(best)])

    def _depth(self, rates: Sequence[float], best: float) -> int:
        """How deep to draft, where a draft so many levels deep has these rates."""
        if self.width is None:
            return self.deepest
        if not self.draws and not self._padded:
            return max(depth for depth, rate in enumerate(rates, 1) if rate >= NEAR * best)
        last = None if self._known is None else self._known.depth
        return last if last is not None and rates[last - 1] >= SAME * best else 1 + rates.index(best)

    def _verifying(self, nodes: float) -> float:
        """Seconds of a round that verifies so many nodes on average."""
        low = min(int(nodes), MOST_DRAFTED - 1)
        return self._target[low] + (nodes - low) * (self._target[low + 1] - self._target[low])

    def limits(self, reach: int, reason: str) -> Limits:
        """The limits of a round with a draft of this form, as prices want it.

        Where passes are padded a shape is drafted whole: one that ends early saves passes of the drafter, and no rows, and the
        next longer one pays for a change of size.
        """
        depth, rate, _ = self.expected()
        if self._padded:
            return self._whole(depth, reach, reason)
        return self.priced(depth, reach, rate * self._slope(), [rate * self.costs.drafter_pass(1.0)] * depth, reason)

    def priced(self, depth: int, reach: int, row: float, made: Sequence[float], reason: str) -> Limits:
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
            reason=reason,
        )

    def offer(self, depth: int) -> Offer:
        """A draft of this form, `depth` levels, as the rounds before have counted them."""
        chances = self.ledger.survival()[:depth]
        if self.width is not None:
            return Offer([Level(chance, self.width, 1.0) for chance in chances], self.width, self.costs.overhead)
        counted = zip(chances, self.ledger.depths, strict=False)
        levels = [Level(chance, each.nodes / each.rounds, each.passes / each.rounds) for chance, each in counted]
        return Offer(levels, self.ledger.rows, self.costs.overhead)

    def beside(self, depth: int, reach: int, prices: Prices, reason: str) -> Limits:
        """The limits of a draft `depth` deep at most, one among those of others.

        A shape that does not look at scores is drafted whole: whoever is left behind by the others in a batch would be decoded
        alone in the end, in rounds that cost more than they do together.
        """
        if self.width is None:
            return self.priced(depth, reach, prices.row, prices.passes, reason)
        return self._whole(depth, reach, reason)

    def _whole(self, depth: int, reach: int, reason: str) -> Limits:
        """The limits of a shape that is drafted `depth` deep."""
        nodes = min(MOST_DRAFTED, (self.width or 1) * depth)
        return Limits(nodes, depth, reach, spread=False, narrow=self.narrow, reason=reason)

    def _slope(self) -> float:
        """Seconds per node of the cheapest size near the one that drafts have now.

        Some more nodes may cost less than these: where the second row is dear and the fourth is free, drafts of one node would
        else never become drafts of three.
        """
        usual = self.ledger.spare + sum(c.nodes / c.rounds for c in self.ledger.depths)
        nodes = max(1, min(MOST_DRAFTED, round(usual)))
        sizes = range(nodes, min(MOST_DRAFTED, 2 * nodes + 2) + 1)
        return max(0.0, min((self._target[size] - self._target[0]) / size for size in sizes))


def compare(chain: Form, branching: Form) -> None:
    """Let two forms learn from what was measured of each other."""
    told = branching.ledger.usual_odds / chain.ledger.usual_odds
    pool(chain.ledger, branching.ledger, BRANCHES * (told / BRANCHES) ** MEASURED)
