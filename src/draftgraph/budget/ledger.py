"""What the rounds of one request have shown so far, counted by depth and by score: all that the automatic budget knows of a text.

Only past rounds enter, and only what they counted: never the tokens of the round that is planned (docs/layer_rule.md, A1), and
never a clock, so that a seed gives the same text again.
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
LEAST_MISS = 0.05
"""What was measured while costs were is never taken for surer than this."""
NO_PRIOR = Level(0.5, 1.0, 1.5, 0.7)


@dataclass
class _Depth:
    """Running sums over the rounds whose drafts were allowed to come this deep.

    above  of them, rounds whose accepted path came to the depth above; reached  to this one.
    grown, promised  of those that drafted this depth: rounds whose path came to it; the sum of the scores of the nodes above.
    """

    rounds: float
    above: float
    reached: float
    passes: float
    nodes: float
    grown: float
    promised: float

    @property
    def share(self) -> float:
        """Of the paths that came to the depth above, those that came to this one."""
        return min(1.0, self.reached / self.above) if self.above > 0.0 else 0.0

    @property
    def gain(self) -> float:
        """Accepted tokens that this depth adds per unit of score above it."""
        return max(LEAST_GAIN, self.grown / self.promised) if self.promised > 0.0 else LEAST_GAIN

    def fade(self, memory: float) -> None:
        """Make room for one more round; no more than `memory` rounds stay."""
        keep = min(1.0, (memory - 1.0) / self.rounds)
        for name in ("rounds", "above", "reached", "passes", "nodes"):
            setattr(self, name, keep * getattr(self, name))

    def hear(self, reached: float) -> None:
        """Take a path of another form that came to the depth above for one that came here with a chance of `reached`."""
        keep = min(1.0, (MEMORY - 1.0) / self.above) if self.above > 0.0 else 1.0
        self.above = keep * self.above + 1.0
        self.reached = max(0.0, keep * self.reached + reached)

    def judge(self, grown: bool, promised: float) -> None:
        """Count a round that drafted this depth."""
        self.grown += grown - self.grown / MEMORY
        self.promised += promised - self.promised / MEMORY


@dataclass
class Ledger:
    """Counts of one request. `levels` is what drafts did while costs were measured.

    beyond, spare  tokens per round accepted, and nodes verified, below the depth that was asked for (copies along edges).
    drafted, copied   scores of nodes that the drafter proposed itself, and of copies.
    """

    levels: Sequence[Level]
    deepest: int
    beyond: float = 0.0
    spare: float = 0.0
    rows: float = 1.0
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
            reached = above * _shrunk(level.reached, above, share)
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

    def enter(self, record: RoundRecord, asked: int) -> None:
        """Count a round whose draft was allowed to be `asked` deep."""
        deep, accepted = record.depths(), len(record.path)
        scores = [1.0, *[0.0] * self.deepest]
        for depth, score in zip(deep, record.scores, strict=True):
            if depth <= self.deepest:
                scores[depth] += score
        for depth, counts in enumerate(self.depths[:asked], 1):
            counts.fade(self.memory)
            counts.rounds += 1.0
            counts.above += accepted >= depth - 1
            counts.reached += accepted >= depth
            counts.passes += record.num_passes >= depth
            counts.nodes += deep.count(depth)
            if record.num_passes >= depth:
                counts.judge(accepted >= depth, scores[depth - 1])
        self._drift(record.num_passes)
        if record.num_passes:
            self.rows += (record.num_evaluations / record.num_passes - self.rows) / BRIEF
        self.beyond += (max(0, accepted - asked) - self.beyond) / MEMORY
        self.spare += (sum(depth > asked for depth in deep) - self.spare) / MEMORY
        self.judge(record)
        self.memory = MEMORY

    def hear(self, accepted: int, asked: int, misses: float) -> None:
        """Count a round whose draft had another form, and misses the target once where this one does `misses` times."""
        for depth, counts in enumerate(self.depths[:asked], 1):
            if accepted >= depth - 1:
                counts.hear(1.0 if accepted >= depth else 1.0 - misses)

    @property
    def usual_miss(self) -> float:
        """Of the paths that came to a level while costs were measured, the share that went no further."""
        return max(LEAST_MISS, 1.0 - self._pooled()[0])

    def judge(self, record: RoundRecord) -> None:
        """Compare the scores of a round's nodes with what was accepted of them."""
        path = set(record.path)
        for node, (score, origin) in enumerate(zip(record.scores, record.origins, strict=True)):
            (self.drafted if origin == DRAFTED else self.copied).enter(score, node in path)
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
        chances, chance = [], 1.0
        for counts in self.depths:
            chance *= counts.share
            chances.append(chance)
        return chances


def _shrunk(part: float, whole: float, usual: float) -> float:
    """part / whole as counted over FEW rounds, drawn towards the usual ratio: the fewer came here, the more."""
    return min(part + usual / FEW, whole + 1.0 / FEW) / (whole + 1.0 / FEW)
