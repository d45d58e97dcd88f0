"""The automatic budget: every round drafts so deep and so wide as tokens per second are expected to be most, or not at all.

With λ tokens per second at hand, a draft is worth making while what it adds to the tokens of the round exceeds λ times the
seconds that it adds (a fraction is maximal where its numerator minus λ times its denominator is: Dinkelbach 1967). So λ prices
everything: a row of the target θ = λ dT/dN, a drafter pass η = λ D, and plain decoding is the draft of depth 0. Seconds are those
of the cost table, tokens are counted (`ledger`). Copies alone have no SAMPLED slots, so their number may look at them: every
size of such a draft is priced as a whole (`draft/whole_sizes.py`).

Where plain decoding wins, short probes ask from time to time whether the text has changed. Together they may cost PROBE_SHARE of
the time even if every one fails, and each failure doubles the wait for the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from draftgraph.budget.costs import Costs
from draftgraph.budget.ledger import Ledger
from draftgraph.draft.structures.base import MIN_MASS
from draftgraph.draft.terms import Limits
from draftgraph.request.record import RoundRecord

MOST_DRAFTED = 64
"""Nodes of a round whose size prices decide."""
MOST_COPIES = 32
"""Nodes of a draft of copies alone. Scores fall along a copied run, so that later ones add little."""
DEPTH = 8
PROBE_DEPTH = 2
PROBE_SHARE = 0.015
MOST_DOUBLINGS = 4
"""The wait from one probe to the next grows by this power of two at most."""
NEAR = 0.95
"""Of depths whose rates are so near to the best one a fixed shape gets the largest: what is never drafted is never learnt."""
HOPE = 0.75
"""A pass is made if it is expected to earn this share of its price: a little too deep costs little and is noticed, a little too
shallow is not."""


@dataclass
class AutoBudget:
    """Decides for one request; `plan` is asked once before every round.

    computes  whether the drafter can be asked for more than copies. False: drafts are copies, or nothing.
    copies    whether there are edge sources, whose copies take no drafter. Where nothing else pays, or there is nothing else,
              drafts are of copies alone, as many as give most tokens per second.
    width     nodes per level of a structure whose shape does not look at scores (a chain's is 1); None: prices shape the draft.
    """

    costs: Costs
    deepest: int = DEPTH
    computes: bool = True
    copies: bool = False
    width: int | None = None
    ledger: Ledger = field(init=False)
    _asked: int = 0
    _probing: bool = False
    _waited: int = 0
    _failures: int = 0
    _drafting: bool = True
    _begun: bool = False
    _counted: tuple[int, float, float] | None = None

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.costs.levels, self.deepest)
        self._target = [self.costs.verifying(nodes) for nodes in range(MOST_DRAFTED + 1)]
        self._plain = 1.0 / self.costs.plain
        self._copies = [self.costs.whole(nodes) for nodes in range(MOST_COPIES + 1)]
        each, one = [1.0] * self.deepest, self.costs.drafter_pass(1.0)
        best = max((1.0 + depth) / self._seconds(depth, each, each, one) for depth in self._depths())
        self._hopeless = best <= self._plain
        probed = min(PROBE_DEPTH, self.deepest)
        self._probe_seconds = self.costs.round(probed, [1.0] * probed)

    def plan(self, length: int, rounds: Sequence[RoundRecord], reach: int) -> Limits:
        """The limits of the next round behind `length` committed tokens, after `rounds`."""
        self._learn(rounds)
        if reach == 0:
            return self._none(reach, "the next token is the last one")
        if not self.computes:
            return self._none(reach, f"{self._plain:.0f} tokens/s without drafts")
        if self._hopeless:
            return self._none(
                reach, f"a token takes {1e3 / self._plain:.2f} ms, and no draft is faster if all of it is accepted"
            )
        if self._counted is None:  # plain rounds count nothing new, and shall cost nothing
            self._counted = self._best()
        depth, rate, tokens = self._counted
        if rate > self._plain:
            self._drafting = True
            return self._draft(depth, rate, tokens, reach)
        if self._drafting:
            self._drafting = False
            self.ledger.doubt()  # which fades all counts alike: no share of them changes
        why = f"drafts would give {rate:.0f} tokens/s, none {self._plain:.0f}"
        self._waited += 1
        if self._waited < self._wait(length):
            return self._none(reach, why)
        return self._probe(reach, why)

    def _told(self, reason: str) -> str:
        """A reason; that of the first round also says where the table of costs comes from."""
        return reason if self._begun else f"{reason}; costs {self.costs.note}"

    def _learn(self, rounds: Sequence[RoundRecord]) -> None:
        self._begun = bool(rounds)
        for record in rounds[self.ledger.read :]:
            if self._asked:
                self.ledger.enter(record, self._asked)
                self._counted = None
            elif self.copies:
                self.ledger.judge(record)
            if self._probing:
                nodes, passes = len(record.tokens), record.num_passes
                paid = 1 + len(record.path) >= self._plain * self.costs.round(nodes, [1.0] * passes)
                self._failures = 0 if paid and record.path else self._failures + 1
                # What a successful probe has shown is asked again at once.
                self._waited = -1 if self._failures == 0 else 0
        self.ledger.read = len(rounds)

    def _best(self) -> tuple[int, float, float]:
        """The depth to draft to, at least 1; the best rate of any depth; tokens per round there."""
        counts, survival = self.ledger.depths, self.ledger.survival()
        passes = [c.passes / c.rounds for c in counts]
        nodes = [c.nodes / c.rounds for c in counts]
        tokens = [1.0 + self.ledger.beyond + reached for reached in accumulate(survival)]
        one, spare = self.costs.drafter_pass(self.ledger.rows), self.ledger.spare
        rates = [tokens[depth - 1] / self._seconds(depth, passes, nodes, one, spare) for depth in self._depths()]
        best = max(rates)
        near = self.deepest if self.width is None else max(d for d, rate in enumerate(rates, 1) if rate >= NEAR * best)
        return near, best, tokens[rates.index(best)]

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

    def _draft(self, depth: int, rate: float, tokens: float, reach: int) -> Limits:
        row, made = rate * self._slope(), rate * self.costs.drafter_pass(1.0)
        deeper = [HOPE * (made + row) / counts.gain for counts in self.ledger.depths[1:depth]]
        limits = Limits(
            MOST_DRAFTED if self.width is None else min(MOST_DRAFTED, self.width * depth),
            depth,
            reach,
            floor=self.ledger.drafted.floor(row),
            price_passes=(0.0, *deeper),  # that the first one is made has been decided
            spread=False,
            reason=self._told(
                f"draft: {tokens:.2f} tokens per round expected, {rate:.0f} tokens/s; none {self._plain:.0f}"
            ),
        )
        self._asked, self._probing, self._waited, self._failures = min(depth, reach), False, 0, 0
        return limits

    def _slope(self) -> float:
        """Seconds per node of the cheapest size near the one that drafts have now.

        Some more nodes may cost less than these: where the second row is dear and the fourth is free, drafts of one node would
        else never become drafts of three.
        """
        usual = self.ledger.spare + sum(c.nodes / c.rounds for c in self.ledger.depths)
        nodes = max(1, min(MOST_DRAFTED, round(usual)))
        sizes = range(nodes, min(MOST_DRAFTED, 2 * nodes + 2) + 1)
        return max(0.0, min((self._target[size] - self._target[0]) / size for size in sizes))

    def _none(self, reach: int, why: str) -> Limits:
        """Nothing from a drafter: as many copies as pay, if there are any."""
        self._asked, self._probing = 0, False
        if not self.copies or reach == 0:
            return Limits(0, 0, reach, reason=self._told(f"plain: {why}"))
        return Limits(
            MOST_COPIES,
            0,
            reach,
            floor=MIN_MASS,
            reason=self._told(f"copies: {why}; as many as give more"),
            seconds=self._copies,
            worth=self.ledger.copied.expected,
        )

    def _probe(self, reach: int, why: str) -> Limits:
        self._asked, self._probing = min(PROBE_DEPTH, self.deepest, reach), True
        return Limits(self._asked, self._asked, reach, reason=self._told(f"probe: {why}"))

    def _wait(self, length: int) -> int:
        """Rounds from one probe to the next, so that probes take PROBE_SHARE of the time if none of them finds anything."""
        if self._waited <= 0:
            return 0
        seconds = self._probe_seconds
        if self.costs.drafter is not None:  # it reads what it has missed
            seconds += self.costs.drafter(max(1, length - self.ledger.cached)) - self.costs.drafter(1)
        wait = (seconds * self._plain - 1.0) / PROBE_SHARE
        return int(wait * 2.0 ** min(self._failures, MOST_DOUBLINGS))
