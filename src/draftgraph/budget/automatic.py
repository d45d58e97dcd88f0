"""The automatic budget: every round drafts so deep and so wide as tokens per second are expected to be most, or not at all.

With λ tokens per second at hand, a draft is worth making while what it adds to the tokens of the round exceeds λ times the
seconds that it adds (a fraction is maximal where its numerator minus λ times its denominator is: Dinkelbach 1967). So λ prices
everything: a row of the target θ = λ dT/dN, a drafter pass η = λ D, and plain decoding is the draft of depth 0. Seconds are those
of the cost table, tokens are counted (`ledger`). Copies alone have no SAMPLED slots, so their number may look at them: every
size of such a draft is priced as a whole (`draft/whole_sizes.py`).

A chain may give fewer tokens per round and more per second: its passes are narrower, and less is done around them. Where the
structure is left open, both forms are priced, and the faster one is drafted (`form`). What the rounds of one form have shown
tells of the other.

Copies cost no pass. Where a drafter pays as well, a round has copies alone if what the text holds at this place is expected to
give more tokens per second than the drafter (`Limits.instead`). What the drafter is worth is counted in the other rounds, and
what it would give at such a place is estimated from them (`rivals`).

Where plain decoding wins, short probes ask from time to time whether the text has changed. Together they may cost PROBE_SHARE of
the time even if every one fails, and each failure doubles the wait for the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from draftgraph.budget.costs import Costs
from draftgraph.budget.form import Form, compare
from draftgraph.budget.looks import Looks
from draftgraph.budget.offers import Offer, Prices
from draftgraph.budget.pass_sizes import PassSizes
from draftgraph.budget.rivals import Rivals
from draftgraph.draft.structures.base import MIN_MASS
from draftgraph.draft.terms import Limits
from draftgraph.draft.whole_sizes import Unrolled, unrolled
from draftgraph.request.record import COPIES, RoundRecord

MOST_COPIES = 32
"""Nodes of a draft of copies alone. Scores fall along a copied run, so that later ones add little."""
DEPTH = 8
PROBE_DEPTH = 2
PROBE_SHARE = 0.015
MOST_DOUBLINGS = 4
"""The wait from one probe to the next grows by this power of two at most."""
STAY = 0.95
"""A form is left for another one if its rate is below this share of the other's: both are estimates, and a change costs time."""
COMPARED_EVERY = 4
"""Rounds from one comparison of the forms to the next. A draft that was decided stands in between: deciding takes time too."""
LEARNING = 4
"""First rounds, in which every draft is decided anew."""
STAYS = 3
"""Rounds for which a decision beside others stands, if about as many others take part: deciding takes time of all."""


@dataclass
class AutoBudget:
    """Decides for one request; `plan` is asked once before every round.

    computes  whether the drafter can be asked for more than copies. False: drafts are copies, or nothing.
    copies    whether there are edge sources, whose copies take no drafter. Where nothing else pays, or there is nothing else,
              drafts are of copies alone, as many as give most tokens per second.
    width     nodes per level of a structure whose shape does not look at scores (a chain's is 1); None: prices shape the draft.
    narrows   whether drafts may also be chains. They are where `costs` holds what chains cost, and that is less per token.
    draws     whether slots are SAMPLED.
    copied_to  depth of drafts of copies alone at most; None: any.
    unrolled  whether the target reads every path of a draft as a sequence of its own.
    """

    costs: Costs
    deepest: int = DEPTH
    computes: bool = True
    copies: bool = False
    width: int | None = None
    narrows: bool = False
    draws: bool = False
    copied_to: int | None = None
    unrolled: bool = False
    forms: list[Form] = field(init=False)
    _form: Form = field(init=False)
    _sizes: PassSizes = field(init=False)
    _looks: Looks = field(init=False)
    _asked: int = 0
    _probing: bool = False
    _waited: int = 0
    _failures: int = 0
    _drafting: bool = True
    _read: int = 0
    _cached: int = 0
    _rivals: Rivals = field(default_factory=Rivals)
    _shared: Limits | None = None
    _light: Limits | None = None
    _standing: Limits | None = None
    _length: int = 0
    _others: int = 0
    _left: int = 0
    _owed: list[tuple[RoundRecord, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.forms = [Form(self.costs, self.deepest, self.width, draws=self.draws)]
        chains = self.costs.of_chains if self.narrows else None
        if chains is not None:
            self.forms.insert(0, Form(chains, self.deepest, 1, narrow=True, draws=self.draws))
            compare(*self.forms)
        self._form = self.forms[0]
        self._plain = 1.0 / self.costs.plain
        self._sizes, self._looks = PassSizes(self.costs, MOST_COPIES), Looks(self.costs)
        self._hopeless = max(form.most for form in self.forms) <= self._plain
        probed = min(PROBE_DEPTH, self.deepest)
        self._probe_seconds = self.forms[0].costs.round(probed, [1.0] * probed)

    def plan(self, length: int, rounds: Sequence[RoundRecord], reach: int, unable: str = "") -> Limits:
        """The limits of the next round behind `length` committed tokens, after `rounds`.

        unable  why the drafter cannot draft, if so.
        """
        self._learn(rounds)
        self._light, self._length = None, length
        if reach == 0:
            return self._none(reach, "the next token is the last one")
        if unable:
            return self._none(reach, unable)
        if not self.computes:
            return self._none(reach, f"{self._plain:.0f} tokens/s without drafts")
        if self._hopeless:
            return self._none(
                reach, f"a token takes {1e3 / self._plain:.2f} ms, and no draft is faster if all of it is accepted"
            )
        if self._shared is not None and (self._left or self._shared.depth):
            if self.forms[0].width is None:
                self._teach()
            self._light = self._shared.within(reach)
            return self._light
        return self._alone(length, reach)

    def alone(self, planned: Limits, length: int) -> Limits:
        """The limits of the round that was `planned` last, if nobody else takes part in it after all."""
        return self._alone(length, planned.reach) if planned is self._light else planned

    def _alone(self, length: int, reach: int) -> Limits:
        """The limits of a round without others."""
        self._shared = None
        if self._standing is not None and self._read > LEARNING and self._read % COMPARED_EVERY:
            self._asked = min(self._standing.depth, reach)
            return self._standing.within(reach)
        self._standing = None
        self._teach()
        self._choose()
        rate = self._form.expected().rate
        if rate <= self._plain:
            rate = self._fastest()
        if rate > self._plain:
            self._drafting = True
            return self._draft(reach)
        if self._drafting:
            self._drafting = False
            for form in self.forms:
                form.doubt()
        why = f"drafts would give {rate:.0f} tokens/s, none {self._plain:.0f}"
        self._waited += 1
        if self._waited < self._wait(length):
            return self._none(reach, why)
        return self._probe(reach, why)

    def __call__(self, length: int, rounds: Sequence[RoundRecord], reach: int, unable: str = "") -> Limits:
        return self.plan(length, rounds, reach, unable)

    def offer(self, planned: Limits) -> Offer | None:
        """What may be drafted beside others instead of what was `planned` last, level by level, in the form that costs least.

        None where the size of that draft is no question of price.
        """
        wanted = self.deepest if planned is self._light else planned.depth
        depth = 0 if self._probing else min(wanted, planned.reach)
        return self.forms[0].offer(depth) if depth else None

    def take(self, planned: Limits, depth: int, prices: Prices) -> Limits:
        """The limits of that round if its draft, one among those of others, is `depth` deep at most."""
        told = f"{prices.rate:.0f} tokens/s with {prices.requests} requests"
        self._others, self._left, self._asked = prices.requests, STAYS, min(depth, planned.reach)
        self._standing = None
        if depth == 0:
            reason = self._told(f"plain: no draft pays beside the others, {told}")
            self._shared = Limits(0, 0, planned.reach, reason=reason)
            return self._shared
        self._form = self.forms[0]
        reason = self._told(f"draft: {depth} deep beside others, {told}")
        limits = self._form.beside(depth, planned.reach, prices, reason)
        tokens, rate = prices.of_draft(self._form.offer(depth).levels)
        self._shared = self._with_copies(limits, prices.seconds, rate, tokens)
        return self._shared

    def stays(self, requests: int) -> bool:
        """Whether the last decision beside others still stands beside so many requests."""
        if self._shared is None or self._left == 0:
            return False
        priced = self._shared.depth > 0 and self.forms[0].width is None
        return not priced and 8 * abs(requests - self._others) <= self._others

    def again(self, planned: Limits) -> Limits:
        """The limits of another round in which that decision stands."""
        self._left -= 1
        if planned is self._light:
            self._asked = min(planned.depth, planned.reach)
            self._waited += self._asked == 0
        return planned

    def _choose(self) -> None:
        """Take the fastest form; of forms that are about as fast the one of the last draft, and chains at the beginning."""
        if len(self.forms) == 1 or self._read % COMPARED_EVERY:
            return
        best = max(self.forms, key=lambda form: form.expected().rate)
        if self._form.expected().rate < STAY * best.expected().rate:
            self._form = best

    def _fastest(self) -> float:
        """The rate of the fastest form, which is taken."""
        self._form = max(self.forms, key=lambda form: form.expected().rate)
        return self._form.expected().rate

    def _told(self, reason: str) -> str:
        """A reason; that of the first round also says where the table of costs comes from."""
        return reason if self._read else f"{reason}; costs {self.costs.note}"

    def _learn(self, rounds: Sequence[RoundRecord]) -> None:
        for record in rounds[self._read :]:
            rows, paths = unrolled(record.parents)[-1] if self.unrolled else Unrolled(1 + len(record.tokens), 1)
            self._sizes.passed(rows)
            if self._asked and record.decision != COPIES:
                self._form.learn(record, self._asked)
                if not self._probing:  # which looks for no copies
                    self._rivals.enter(record.rival, 1.0 + sum(record.chances))
                self._owed.append((record, self._asked))
                self._cached = record.length if record.num_passes else self._cached
            elif record.decision == COPIES:
                self.forms[-1].ledger.judge(record)
                taken = self.costs.whole(rows - 1) + self._sizes.path(record.length) * (paths - 1)
                self._looks.learn((1.0 + sum(record.chances)) / self._plain - taken)
            if self._probing:
                nodes, passes = len(record.tokens), record.num_passes
                paid = 1 + len(record.path) >= self._plain * self._form.costs.round(nodes, [1.0] * passes)
                self._failures = 0 if paid and record.path else self._failures + 1
                # What a successful probe has shown is asked again at once.
                self._waited = -1 if self._failures == 0 else 0
        self._read = len(rounds)

    def _teach(self) -> None:
        """Weigh the scores of rounds, and tell the other form of them. Beside others, where neither is needed, this waits."""
        for record, asked in self._owed:
            self._form.weigh(record, asked)
            for other in self.forms:
                if other is not self._form:
                    other.hear(record, asked)
        self._owed = []

    def _draft(self, reach: int) -> Limits:
        _, rate, tokens = self._form.expected()
        what = "a chain, " if self._form.narrow else ""
        why = f"draft: {what}{tokens:.2f} tokens per round expected, {rate:.0f} tokens/s; none {self._plain:.0f}"
        limits = self._with_copies(self._form.limits(reach, self._told(why)), self._sizes.seconds(), rate, tokens)
        self._asked, self._probing, self._waited, self._failures = min(limits.depth, reach), False, 0, 0
        self._standing = limits
        return limits

    def _none(self, reach: int, why: str) -> Limits:
        """Nothing from a drafter: as many copies as pay, if there are any."""
        self._asked, self._probing = 0, False
        if not self.copies or reach == 0 or not self._looks.due():
            return Limits(0, 0, reach, reason=self._told(f"plain: {why}"))
        return self._copied(reach, self._sizes.behind(self._length), f"{why}; as many as give more")

    def _copied(self, reach: int, seconds: Sequence[float], why: str) -> Limits:
        """Limits of a draft of copies alone."""
        return Limits(
            MOST_COPIES,
            0,
            reach if self.copied_to is None else min(reach, self.copied_to),
            floor=MIN_MASS,
            reason=self._told(f"{COPIES}: {why}"),
            seconds=seconds,
            worth=self.forms[-1].ledger.copied.expected,
            path=self._sizes.path(self._length) if self.unrolled else None,
        )

    def _with_copies(self, drafted: Limits, seconds: Sequence[float], rate: float, tokens: float) -> Limits:
        """The limits of a draft in whose place there may be copies alone. rate, tokens  that the draft is expected to give."""
        if not self.copies:
            return drafted
        rivals = self._rivals

        def where(promised: float) -> float:
            return rate * (1.0 + rivals.more(promised) / tokens)

        return drafted.but(rate=where, instead=self._copied(drafted.reach, seconds, "first"))

    def _probe(self, reach: int, why: str) -> Limits:
        """A short draft of the form that costs least."""
        self._asked, self._probing, self._form = min(PROBE_DEPTH, self.deepest, reach), True, self.forms[0]
        return Limits(self._asked, self._asked, reach, reason=self._told(f"probe: {why}"), narrow=self._form.narrow)

    def _wait(self, length: int) -> int:
        """Rounds from one probe to the next, so that probes take PROBE_SHARE of the time if none of them finds anything."""
        if self._waited <= 0:
            return 0
        seconds = self._probe_seconds
        if self.costs.drafter is not None:  # it reads what it has missed
            seconds += self.costs.drafter(max(1, length - self._cached)) - self.costs.drafter(1)
        wait = (seconds * self._plain - 1.0) / PROBE_SHARE
        return int(wait * 2.0 ** min(self._failures, MOST_DOUBLINGS))
