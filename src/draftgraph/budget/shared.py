"""One node budget for all requests of a round: drafts compete for the rows of one pass, and shrink as the batch grows.

Together the requests of a round emit Σ t_i tokens in T(Σ rows) + Σ_d D(rows of pass d) seconds and what the engine adds: one
table of costs, read at the rows of all. Tokens per second price every level of every draft, and are most where each request
drafts as deep as is worth that price. All draft equally deep, unless different depths promise clearly more.

Only drafts are shared out that no text depends on: under a rule that reads laws, above temperature 0, other drafts would give
another text for the same seed. Such requests keep the drafts that they have alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from draftgraph.budget.automatic import MOST_COPIES, AutoBudget
from draftgraph.budget.costs import Costs
from draftgraph.budget.offers import Level, Offer, Prices
from draftgraph.draft.terms import Limits
from draftgraph.request.state import Request

FEW, PROMISE = 4, 1.2
"""Drafts of more than FEW requests are made where the table promises PROMISE times the tokens per second of none. It knows rounds
of one request, and promises too much for many: 1.4 to 1.5 for 8 to 32 requests of the bundled pair, which got 1.0 to 1.2."""
TURNS = 4
"""A decision is priced anew so many times at most; the second time it changes hardly ever."""
CLEARLY = 1.05
"""Requests draft to different depths where that promises so many times the rate of one depth for all. What each of them has shown
so far is little, and whoever drafts less is left behind in the end, in rounds of few."""
Depths = npt.NDArray[np.int64]
"""By request, and by number of passes: how many levels it drafts."""


def share_budget(requests: Sequence[Request], limits: Sequence[Limits]) -> list[Limits]:
    """The limits of every request in a round with the others. limits  what each would draft alone, as its plan says."""
    plans = [cast(AutoBudget | None, request.plan) if is_free(request) else None for request in requests]
    if len(requests) < 2:
        return [
            its if plan is None else plan.alone(its, len(request.tokens))
            for request, plan, its in zip(requests, plans, limits, strict=True)
        ]
    sharing = [plan for plan in plans if plan is not None]
    if sharing and all(plan.stays(len(requests)) for plan in sharing):
        return [its if plan is None else plan.again(its) for plan, its in zip(plans, limits, strict=True)]
    costs = next((plan.costs for plan in sharing), None)
    if costs is None:
        return list(limits)
    offers = [None if plan is None else plan.offer(its) for plan, its in zip(plans, limits, strict=True)]
    plain = _Round(costs)
    for its, offer in zip(limits, offers, strict=True):
        plain.join(its, offer)
    depths = _shared_out(plain, offers)
    prices = plain.with_drafts(offers, depths).prices()
    shared = []
    for plan, its, offer, depth in zip(plans, limits, offers, depths, strict=True):
        found = its if plan is None or offer is None else plan.take(its, depth, prices)
        shared.append(replace(found, seconds=prices.seconds) if plan is not None and found.seconds else found)
    return shared


def is_free(request: Request) -> bool:
    """Whether a request may draft more or less without anybody noticing.

    At temperature 0, and with a seed, texts do not depend on who else is decoded, and a rule that is not lossless reads drafts.
    """
    params = request.params
    follows = request.choice.rule.follows_drafts(params.temperature)
    return not follows or (params.temperature > 0 and params.seed is None)


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

    def join(self, limits: Limits, offer: Offer | None) -> None:
        """A request takes part: without a draft if its draft is on offer, else with its own.

        What is left of a prompt has to be read whatever is drafted, so that it makes no token worth more.
        """
        self.requests += 1
        self.tokens += 1.0
        self.rows += 1.0
        if offer is not None or limits.budget == 0 or limits.depth == 0:
            self.outside += self.costs.plain_overhead
            return
        overhead, depth = self.costs.overhead, min(limits.depth, limits.reach)
        self.outside += overhead[0] + overhead[1] * depth + overhead[2] * limits.budget
        for level in range(depth):
            self.add(Level(0.0, limits.budget / depth, 1.0), level, limits.budget / depth)

    def add(self, level: Level, depth: int, rows: float) -> None:
        """A request drafts one level deeper, `depth` is 0 for its first one. rows  that its pass takes."""
        self.tokens += level.tokens
        self.rows += level.nodes
        while len(self.passes) <= depth:
            self.passes.append((0.0, 0.0))
        taken, members = self.passes[depth]
        self.passes[depth] = taken + rows * level.passes, members + level.passes

    @property
    def seconds(self) -> float:
        seconds = float(self.costs.target.each(np.array(self.rows))) + self.outside
        if self.costs.drafter is not None and self.passes:
            rows, members = np.array(self.passes).T
            seconds += float((self.costs.drafter.each(np.maximum(1.0, rows)) * np.minimum(1.0, members)).sum())
        return seconds

    def _more(self, rows: float, most: int) -> npt.NDArray[np.float64]:
        """Seconds that 0, 1, … `most` rows take on top of `rows` more than there are."""
        seconds = self.costs.target.each(self.rows + rows + np.arange(most + 1.0))
        more: npt.NDArray[np.float64] = seconds - seconds[0]
        return more

    def row_seconds(self, rows: float, most: int) -> float:
        """Seconds per row of the cheapest number of rows more, up to `most`, where `rows` more than now are read."""
        return max(0.0, float((self._more(rows, most)[1:] / np.arange(1.0, most + 1.0)).min()))

    def prices(self) -> Prices:
        """What a row and a pass more cost in tokens, at the rate of this round."""
        rate, around, drafter = self.rate, self.costs.overhead, self.costs.drafter
        row = self.row_seconds(0.0, MOST_COPIES) + around[2]
        made = [
            around[1] + (drafter(max(1.0, rows)) / max(1.0, members) if drafter is not None else 0.0)
            for rows, members in self.passes
        ]
        nodes = np.arange(MOST_COPIES + 1.0)
        share = self.tokens / self.requests
        whole: list[float] = (share / rate + around[2] * nodes + self._more(0.0, MOST_COPIES)).tolist()
        return Prices(rate, self.requests, share, rate * row, [rate * seconds for seconds in made], whole)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    def with_drafts(self, offers: Sequence[Offer | None], depths: Sequence[int]) -> _Round:
        """This round with drafts of these depths."""
        other = replace(self, passes=list(self.passes))
        for offer, deep in zip(offers, depths, strict=True):
            if offer is not None and deep:
                other.outside += self.starting(offer) + sum(_around(offer, level) for level in offer.levels[:deep])
                for depth, level in enumerate(offer.levels[:deep]):
                    other.add(level, depth, offer.rows)
        return other

    def starting(self, offer: Offer) -> float:
        """Seconds beside the passes that a request takes longer with a draft than without."""
        return max(0.0, offer.overhead[0] - self.costs.plain_overhead)


def _around(offer: Offer, level: Level) -> float:
    """Seconds beside the passes that one level of a draft takes."""
    return offer.overhead[1] * level.passes + offer.overhead[2] * level.nodes


class _Grid:
    """What is on offer, by request r and depth d (0 is no draft), so that all of a decision is a few operations on arrays.

    tokens, nodes, around  f[r, d + 1] sums down to a depth; around  seconds beside the passes.
    passes, rows  f[r, d] the request's part in a drafter pass. lengths  i[r] levels on offer.
    """

    def __init__(self, plain: _Round, offers: Sequence[Offer]) -> None:
        self.plain, deepest = plain, max(len(offer.levels) for offer in offers)
        levels = np.zeros((len(offers), deepest, 3))
        for number, offer in enumerate(offers):
            levels[number, : len(offer.levels)] = offer.levels
        sums = np.concatenate([np.zeros((len(offers), 1, 3)), levels.cumsum(axis=1)], axis=1)
        overhead = np.array([(plain.starting(offer), *offer.overhead[1:]) for offer in offers])[:, :, None]
        self.depths = np.arange(deepest + 1)
        self.tokens, self.nodes = sums[:, :, 0], sums[:, :, 1]
        self.around = overhead[:, 0] * (self.depths > 0) + overhead[:, 1] * sums[:, :, 2] + overhead[:, 2] * self.nodes
        self.passes = levels[:, :, 2]
        self.rows = self.passes * np.array([[offer.rows] for offer in offers])
        self.lengths = np.array([[len(offer.levels)] for offer in offers])
        already = np.array([*plain.passes, *[(0.0, 0.0)] * (deepest - len(plain.passes))])
        self.already = already[:deepest]

    def alike(self) -> Depths:
        """Everybody drafts as deep as there are passes."""
        deep: Depths = np.minimum(self.depths, self.lengths)
        return deep

    def best(self, rate: float, row: float) -> Depths:
        """i[r, p + 1]: how deep each request drafts if p passes are made, so that its tokens are worth most.

        rate  tokens per second, which price what a draft takes. row  seconds per row of the target.
        """
        worth = self.tokens - rate * (self.around + row * self.nodes)
        worth[self.depths > self.lengths] = -np.inf
        most = np.maximum.accumulate(worth, axis=1)
        deep: Depths = np.maximum.accumulate(np.where(worth >= most, self.depths, 0), axis=1)
        return deep

    def rates(self, deep: Depths) -> npt.NDArray[np.float64]:
        """f[p + 1] tokens per second of the whole round for every column of `deep`."""
        plain, costs = self.plain, self.plain.costs
        tokens, nodes, around = (
            np.take_along_axis(sums, deep, axis=1).sum(axis=0) for sums in (self.tokens, self.nodes, self.around)
        )
        seconds = costs.target.each(plain.rows + nodes) + plain.outside + around
        if costs.drafter is not None:
            drafting = deep[:, :, None] > self.depths[:-1]
            rows = self.already[:, 0] + (drafting * self.rows[:, None]).sum(axis=0)
            members = self.already[:, 1] + (drafting * self.passes[:, None]).sum(axis=0)
            seconds += (costs.drafter.each(np.maximum(1.0, rows)) * np.minimum(1.0, members)).sum(axis=1)
        found: npt.NDArray[np.float64] = (plain.tokens + tokens) / seconds
        return found


def _shared_out(plain: _Round, offers: Sequence[Offer | None]) -> list[int]:
    """How deep every request drafts so that tokens per second are most.

    A pass that is made anyway costs little more with one request more: so every number of passes is tried, first with everybody
    in all of them. The best rate so far prices what a request drafts, which gives a better one, and so on (Dinkelbach 1967).
    """
    numbers = [number for number, offer in enumerate(offers) if offer is not None and offer.levels]
    if not numbers:
        return [0] * len(offers)
    grid = _Grid(plain, [offer for offer in offers if offer is not None and offer.levels])
    deep, best, most = grid.alike(), np.zeros(len(numbers), dtype=np.int64), plain.rate
    for turn in range(TURNS):
        rates = grid.rates(deep)
        passes = int(rates.argmax())
        if rates[passes] <= most * (1.0 if turn == 0 else CLEARLY):
            break
        best, most = deep[:, passes], float(rates[passes])
        row = plain.row_seconds(float(grid.nodes[np.arange(len(best)), best].sum()), len(numbers))
        deep = grid.best(most, row)
    if plain.requests > FEW and most < PROMISE * plain.rate:
        return [0] * len(offers)
    depths = [0] * len(offers)
    for number, depth in zip(numbers, best.tolist(), strict=True):
        depths[number] = depth
    return depths
