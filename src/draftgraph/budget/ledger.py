"""What the rounds of one request have shown so far, counted by depth and by score: all that the automatic budget knows of a text.

Only past rounds enter, and only what they counted: never the tokens of the round that is planned (docs/layer_rule.md, A1), and
never a clock, so that a seed gives the same text again. Instead of whether a node was accepted, the chance is counted that it had
given the draft: the same on average, with less luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from draftgraph.budget.costs import Level
from draftgraph.budget.score_bins import ScoreBins
from draftgraph.draft.graph import DRAFTED
from draftgraph.request.record import RoundRecord

MEMORY = 16.0
"""Rounds that a running mean remembers: texts change, and so does what a drafter knows of them."""
BRIEF = 3.0
"""Rounds that are believed before anything was seen, and again after drafting has stopped to pay."""
UNTRIED, DRIFT = 2, 0.25
"""So many levels below the drafted ones are taken for more and more like the last of those: else nobody would try them again."""
FEW = 4.0
"""What was measured at a level counts as so many rounds beside one of what all levels say."""
LEAST_GAIN = 0.1
"""Scores are never doubted more than this."""
LEAST_SHARE = 0.05
"""What was measured while costs were is never taken for surer than this."""
NO_PRIOR = Level(0.5, 1.0, 1.5, 0.7)


@dataclass
class _Depth:
    """Running sums over the rounds whose drafts were allowed to come this deep.

    above  of them, the chances that the accepted path came to the depth above; reached  to this one.
    grown, promised  of those that drafted this depth: the chances that the path came to it; the scores of the nodes above.
    above_heard, reached_heard  as `above` and `reached`, of rounds whose drafts had another form.
    """

    rounds: float
    above: float
    reached: float
    passes: float
    nodes: float
    grown: float
    promised: float
    above_heard: float = 0.0
    reached_heard: float = 0.0

    def share(self, odds: float, usual: float, weight: float) -> float:
        """Of the paths that came to the depth above, those that come to this one.

        odds  by which paths go on, as a multiple of those of the other form. usual  the share that `weight` rounds speak for.
        """
        seen = self.above + self.above_heard + weight
        if seen <= 0.0:
            return 0.0
        heard = self.reached_heard * odds
        missed = self.above_heard - self.reached_heard
        told = self.above_heard * heard / (heard + missed) if heard > 0.0 else 0.0
        return min(1.0, (self.reached + told + weight * usual) / seen)

    @property
    def gain(self) -> float:
        """Accepted tokens that this depth adds per unit of score above it."""
        return max(LEAST_GAIN, self.grown / self.promised) if self.promised > 0.0 else LEAST_GAIN

    def fade(self, memory: float) -> None:
        """Make room for one more round; no more than `memory` rounds stay, those of another form included."""
        keep = min(1.0, (memory - 1.0) / max(self.rounds, self.above + self.above_heard))
        self.rounds *= keep
        self.above *= keep
        self.reached *= keep
        self.passes *= keep
        self.nodes *= keep
        self.above_heard *= keep
        self.reached_heard *= keep

    def hear(self, above: float, reached: float) -> None:
        """Count a round whose draft had another form."""
        known = self.above + self.above_heard
        keep = min(1.0, (MEMORY - 1.0) / known) if known > 0.0 else 1.0
        self.above *= keep
        self.reached *= keep
        self.above_heard = keep * self.above_heard + above
        self.reached_heard = keep * self.reached_heard + reached

    def judge(self, grown: float, promised: float) -> None:
        """Count a round that drafted this depth."""
        self.grown += grown - self.grown / MEMORY
        self.promised += promised - self.promised / MEMORY


@dataclass
class Ledger:
    """Counts of one request. `levels` is what drafts did while costs were measured.

    alike   whether all levels of a draft have the same shape: while few paths came to a level it is taken for like the one above.
    beyond, spare  tokens per round accepted, and nodes verified, below the depth that was asked for (copies along edges).
    rows    of a drafter pass.
    odds    by which paths go on, as a multiple of those of the form that was heard of.
    drafted, copied   scores of nodes that the drafter proposed itself, and of copies.
    """

    levels: Sequence[Level]
    deepest: int
    alike: bool = False
    beyond: float = 0.0
    spare: float = 0.0
    rows: float = 1.0
    odds: float = 1.0
    memory: float = MEMORY
    depths: list[_Depth] = field(init=False)
    drafted: ScoreBins = field(default_factory=ScoreBins)
    copied: ScoreBins = field(default_factory=ScoreBins)

    def __post_init__(self) -> None:
        share, gain = self._pooled()
        self.depths, above, promised = [], 1.0, 1.0
        for depth in range(self.deepest):
            level = self.levels[depth] if depth < len(self.levels) else None
            if level is None:  # nothing was drafted so deep: as the levels above say
                last = self.levels[-1] if self.levels else NO_PRIOR
                level = Level(above * share, last.passes, last.nodes, promised * share)
            reached = above * (share if self.alike else _shrunk(level.reached, above, share))
            grown = promised * _shrunk(level.reached, promised, gain)
            seen = (1.0, above, reached, level.passes, level.nodes, grown, promised)
            self.depths.append(_Depth(*(BRIEF * value for value in seen)))
            above, promised = reached, level.promised

    def _pooled(self) -> tuple[float, float]:
        """Share of the paths that came one level deeper, and gain per score above, over all levels that were measured."""
        levels = self.levels or [NO_PRIOR]
        reached = sum(level.reached for level in levels)
        above = 1.0 + sum(level.reached for level in levels[:-1])
        promised = 1.0 + sum(level.promised for level in levels[:-1])
        return reached / above, max(LEAST_GAIN, reached / promised)

    @property
    def usual_odds(self) -> float:
        """By which paths went on from a level to the next one, while costs were measured."""
        share = min(1.0 - LEAST_SHARE, max(LEAST_SHARE, self._pooled()[0]))
        return share / (1.0 - share)

    def enter(self, record: RoundRecord, asked: int) -> None:
        """Count a round whose draft was allowed to be `asked` deep: how deep paths came."""
        levels = _Levels.of(record, self.deepest)
        for depth, counts in enumerate(self.depths[:asked], 1):
            counts.fade(self.memory)
            counts.rounds += 1.0
            counts.above += levels.chances[depth - 1]
            counts.reached += levels.chances[depth]
            counts.nodes += levels.nodes[depth]
            counts.passes += float(record.num_passes >= depth)
        if record.num_passes:
            self.rows += (record.num_evaluations / record.num_passes - self.rows) / BRIEF
        self.beyond += (max(0, len(record.path) - asked) - self.beyond) / MEMORY
        self.spare += (len(record.tokens) - sum(levels.nodes[: asked + 1]) - self.spare) / MEMORY
        self.memory = MEMORY

    def weigh(self, record: RoundRecord, asked: int) -> None:
        """Compare what a round that was entered promised, in scores, with how deep paths came. Prices of drafts need it."""
        levels = _Levels.of(record, self.deepest)
        for depth, counts in enumerate(self.depths[: min(asked, record.num_passes)], 1):
            counts.judge(levels.chances[depth], levels.scores[depth - 1])
        self._drift(record.num_passes)
        self.judge(record)

    def hear(self, record: RoundRecord, asked: int) -> None:
        """Count a round whose draft had another form."""
        chances = _Levels.of(record, self.deepest).chances
        for counts, above, reached in zip(self.depths[:asked], chances, chances[1:], strict=False):
            counts.hear(above, reached)

    def judge(self, record: RoundRecord) -> None:
        """Compare the scores of a round's nodes with what was accepted of them."""
        for score, origin, chance in zip(record.scores, record.origins, record.chances, strict=True):
            (self.drafted if origin == DRAFTED else self.copied).enter(score, chance)
        for bins in (self.drafted, self.copied):
            bins.forget()

    def _drift(self, passes: int) -> None:
        """Take the levels below the last drafted one for a little more like it."""
        if not passes:
            return
        gain = self.depths[min(passes, self.deepest) - 1].gain
        for counts in self.depths[passes : passes + UNTRIED]:
            counts.grown = (counts.gain + DRIFT * (gain - counts.gain)) * counts.promised

    def doubt(self) -> None:
        """Forget most of what was counted: drafting no longer pays, and the next probes shall weigh."""
        self.memory = BRIEF
        for counts in self.depths:
            counts.fade(BRIEF + 1.0)

    def survival(self) -> list[float]:
        """Chance that the accepted path reaches depth 1, 2, …, if drafts are allowed to come so deep."""
        chances, chance, share, weight = [], 1.0, 0.0, 0.0
        for counts in self.depths:
            share = counts.share(self.odds, share, weight)
            chance *= share
            chances.append(chance)
            weight = FEW if self.alike else 0.0
        return chances


def pool(fewer: Ledger, more: Ledger, odds: float) -> None:
    """Let what was measured of each form be half its own and half heard of the other.

    odds  by which paths of the second one go on, as a multiple of those of the first one.
    """
    fewer.odds, more.odds = 1.0 / odds, odds
    for one, other in zip(fewer.depths, more.depths, strict=True):
        mine, theirs = ((0.5 * counts.above, 0.5 * counts.reached) for counts in (one, other))
        one.above, one.reached, one.above_heard, one.reached_heard = *mine, *theirs
        other.above, other.reached, other.above_heard, other.reached_heard = *theirs, *mine


@dataclass(frozen=True)
class _Levels:
    """A draft by depth, from the root (0) on: chances that the path came there, scores, nodes."""

    chances: list[float]
    scores: list[float]
    nodes: list[int]

    @classmethod
    def of(cls, record: RoundRecord, deepest: int) -> _Levels:
        chances, scores, nodes = [1.0, *[0.0] * deepest], [1.0, *[0.0] * deepest], [0] * (deepest + 1)
        for depth, chance, score in zip(record.depths(), record.chances, record.scores, strict=True):
            if depth <= deepest:
                chances[depth] += chance
                scores[depth] += score
                nodes[depth] += 1
        return cls(chances, scores, nodes)


def _shrunk(part: float, whole: float, usual: float) -> float:
    """part / whole as counted over FEW rounds, drawn towards the usual ratio: the fewer came here, the more."""
    return min(part + usual / FEW, whole + 1.0 / FEW) / (whole + 1.0 / FEW)
