"""One node budget for all requests of a round: drafts compete for the rows of one pass, and shrink as the batch grows.

Together the requests of a round emit Σ t_i tokens in T(Σ rows) + Σ_d D(rows of pass d) seconds and what the engine adds: one
table of costs, read at the rows of all. Levels of drafts are taken from one heap, the best expected gain per second first, as
long as tokens per second rise. So every request drafts what it would draft alone, or less, or nothing.

Only drafts are shared out that no text depends on: under a rule that reads laws, above temperature 0, other drafts would give
another text for the same seed. Such requests keep the drafts that they have alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from draftgraph.budget.automatic import MOST_COPIES, AutoBudget
from draftgraph.budget.costs import Costs
from draftgraph.budget.offers import Level, Offer, Prices
from draftgraph.draft.terms import Limits
from draftgraph.request.state import Request

FEW, PROMISE = 4, 1.5
"""Drafts of more than FEW requests are made where the table promises PROMISE times the tokens per second of none. It knows rounds
of one request, and promises too much for many: 1.4 for eight requests of the bundled pair, where .9 was found."""
TRIED = 2
"""So many numbers of drafter passes are tried beyond the best one."""


def share_budget(requests: Sequence[Request], limits: Sequence[Limits]) -> list[Limits]:
    """The limits of every request in a round with the others. limits  what each would draft alone, as its plan says."""
    if len(requests) < 2:
        return list(limits)
    plans = [cast(AutoBudget | None, request.plan) if is_free(request) else None for request in requests]
    costs = next((plan.costs for plan in plans if plan is not None), None)
    if costs is None:
        return list(limits)
    offers = [None if plan is None else plan.offer(its) for plan, its in zip(plans, limits, strict=True)]
    plain = _Round(costs)
    for request, its, offer in zip(requests, limits, offers, strict=True):
        plain.join(len(request.tokens) - len(request.text), its, offer)
    depths, best = _shared_out(plain, offers)
    prices = best.prices()
    shared = []
    for plan, its, offer, depth in zip(plans, limits, offers, depths, strict=True):
        found = its if plan is None or offer is None else plan.take(its, depth, prices)
        shared.append(replace(found, seconds=prices.seconds) if plan is not None and found.seconds else found)
    return shared


def is_free(request: Request) -> bool:
    """Whether a request may draft more or less without anybody noticing.

    At temperature 0, and with a seed, texts do not depend on who else is decoded, and a rule that is not lossless reads drafts.
    """
    rule, params = request.choice.rule, request.params
    same_text = rule.position_noise or (params.temperature == 0 and rule.lossless)
    return same_text or (params.temperature > 0 and params.seed is None)


@dataclass
class _Round:
    """What a round would be.

    requests  how many take part.
    tokens    that it is expected to emit.
    rows      of the target's pass.
    passes    rows and requests of every drafter pass.
    outside   seconds beside the passes.
    """

    costs: Costs
    requests: int = 0
    tokens: float = 0.0
    rows: float = 0.0
    outside: float = 0.0
    passes: list[tuple[float, float]] = field(default_factory=list)
    _seen: dict[int, float] = field(default_factory=dict)
    _read: dict[float, float] = field(default_factory=dict)

    def join(self, unread: int, limits: Limits, offer: Offer | None) -> None:
        """A request takes part: without a draft if its draft is on offer, else with its own."""
        self.requests += 1
        self.tokens += 1.0
        self.rows += unread
        drafts = offer is None and limits.budget > 0 and limits.depth > 0
        self.outside += self.costs.overhead[0] if drafts else self.costs.plain_overhead
        if drafts:
            depth = min(limits.depth, limits.reach)
            for level in range(depth):
                self.add(Level(0.0, limits.budget / depth, 1.0), level, limits.budget / depth)

    def add(self, level: Level, depth: int, rows: float) -> None:
        """A request drafts one level deeper, `depth` is 0 for its first one. rows  that its pass takes."""
        self.tokens += level.tokens
        self.rows += level.nodes
        self.outside += self.costs.overhead[2] * level.nodes + self.costs.overhead[1] * level.passes
        while len(self.passes) <= depth:
            self.passes.append((0.0, 0.0))
        taken, members = self.passes[depth]
        self.passes[depth] = taken + rows * level.passes, members + level.passes

    @property
    def seconds(self) -> float:
        seconds = self._target(self.rows) + self.outside
        if self.costs.drafter is not None:
            for rows, members in self.passes:
                seconds += self._drafter(rows) * min(1.0, members)
        return seconds

    def _drafter(self, rows: float) -> float:
        """Seconds of a drafter pass over so many rows on average."""
        assert self.costs.drafter is not None
        if rows not in self._read:
            self._read[rows] = self.costs.drafter(max(1.0, rows))
        return self._read[rows]

    def _target(self, rows: float) -> float:
        """Seconds of the target's pass; of a mean number of rows, between the two whole numbers beside it."""
        fewer = int(rows)
        for whole in (fewer, fewer + 1):
            if whole not in self._seen:
                self._seen[whole] = self.costs.target(whole)
        return self._seen[fewer] + (rows - fewer) * (self._seen[fewer + 1] - self._seen[fewer])

    def row_seconds(self, most: int) -> float:
        """Seconds per row of the cheapest number of rows more, up to `most`."""
        now = self._target(self.rows)
        return max(0.0, min((self._target(self.rows + more) - now) / more for more in range(1, most + 1)))

    def prices(self) -> Prices:
        """What a row and a pass more cost in tokens, at the rate of this round."""
        rate, around, drafter = self.tokens / self.seconds, self.costs.overhead, self.costs.drafter
        now = self._target(self.rows)
        more = [self._target(self.rows + nodes) - now for nodes in range(MOST_COPIES + 1)]
        row = self.row_seconds(MOST_COPIES) + around[2]
        made = [
            around[1] + (drafter(max(1.0, rows)) / max(1.0, members) if drafter is not None else 0.0)
            for rows, members in self.passes
        ]
        whole = [1.0 / rate + around[2] * nodes + seconds for nodes, seconds in enumerate(more)]
        return Prices(rate, self.requests, rate * row, [rate * seconds for seconds in made], whole)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    def deepen(self, offer: Offer, depth: int) -> None:
        """A request whose draft is on offer drafts one level deeper than `depth`."""
        if depth == 0:
            self.outside += self.costs.overhead[0] - self.costs.plain_overhead
        self.add(offer.levels[depth], depth, offer.rows)

    def with_drafts(self, offers: Sequence[Offer | None], depths: Sequence[int]) -> _Round:
        """This round with drafts of these depths."""
        other = replace(self, passes=list(self.passes))
        for offer, deep in zip(offers, depths, strict=True):
            for depth in range(deep if offer is not None else 0):
                assert offer is not None
                other.deepen(offer, depth)
        return other


def _shared_out(plain: _Round, offers: Sequence[Offer | None]) -> tuple[list[int], _Round]:
    """How deep every request drafts so that tokens per second are most, and that round.

    A pass that is made anyway costs little more with one request more. So the number of passes is tried, and then shared.
    """
    best, most, worse = [0] * len(offers), plain.rate, 0
    for passes in range(1, 1 + max((len(offer.levels) for offer in offers if offer is not None), default=0)):
        depths, rate = _with_passes(plain, offers, passes)
        worse = 0 if rate > most else worse + 1
        if rate > most:
            best, most = depths, rate
        if worse == TRIED:
            break
    if plain.requests > FEW and most < PROMISE * plain.rate:
        best = [0] * len(offers)
    return best, plain.with_drafts(offers, best)


def _with_passes(plain: _Round, offers: Sequence[Offer | None], passes: int) -> tuple[list[int], float]:
    """The depths, up to a number of passes, at which tokens per second are most, and how many those are."""
    around = plain.costs.overhead
    row = around[2] + plain.row_seconds(len(offers))
    heap: list[tuple[float, int]] = []
    depths = [0] * len(offers)
    now = plain.with_drafts(offers, depths)

    def offered(number: int, offer: Offer | None) -> None:
        if offer is not None and depths[number] < min(passes, len(offer.levels)):
            level = offer.levels[depths[number]]
            first = 0.0 if depths[number] else around[0] - plain.costs.plain_overhead
            price = row * level.nodes + around[1] * level.passes + max(0.0, first)
            heapq.heappush(heap, (-level.tokens / max(price, 1e-9), number))

    for number, offer in enumerate(offers):
        offered(number, offer)
    best, most = list(depths), 0.0
    while heap:
        _, number = heapq.heappop(heap)
        offer = offers[number]
        assert offer is not None
        now.deepen(offer, depths[number])
        depths[number] += 1
        offered(number, offer)
        if now.rate > most:
            best, most = list(depths), now.rate
    return best, most
