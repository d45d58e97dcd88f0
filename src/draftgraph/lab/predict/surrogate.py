"""Trees need rows off the text. A surrogate borrows them: the real rows at another place where the text reads alike.

A prefix that follows the text has the text's own rows. One that leaves it takes the pair of rows (p, q) at the position of the
sample whose last tokens agree with the prefix the furthest, at least with its last token; else at any position. So p and q belong
together and a prefix always has the same rows, but those rows were written behind other texts, and the target wrote them: drafted
tokens are not quite the target's. The error this makes is measured on chains, where the truth is known (`check_on_chains`).

On surrogate rows the production growth runs and the rule states the law of its verdict, so what is predicted is what is shipped.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.base import Growth
from draftgraph.draft.structures.calibrate import Calibration, sharpen
from draftgraph.draft.structures.tree import Tree
from draftgraph.draft.terms import Evaluate, Limits
from draftgraph.lab.predict.acceptance import Plan, by_text, rounds, starts, survival
from draftgraph.lab.predict.estimate import Estimate
from draftgraph.lab.predict.rows import PairRows
from draftgraph.types import ROOT
from draftgraph.verification.base import sample_rows
from draftgraph.verification.registry import get_rule

LONGEST_MATCH = 6
"""Tokens compared at most."""
LEARNT_FROM = 48
"""Positions that the tables of the level policy learn from, as they would from the first rounds of a request."""


FREE = Tree()


@dataclass(frozen=True)
class TreePlan:
    """A tree that the production code grows, verified by the layer rule (the target's walk at temperature 0).

    structure  a tree of a given shape; without one the level policy decides within `limits`, best-first at temperature 0.
    learns     whether the tables of the level policy have learnt from the texts, as after some rounds, or are fresh.
    """

    limits: Limits
    structure: Tree = FREE
    learns: bool = True

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> TreePlan:
        tree = Tree(shape)
        limits = tree.whole(len(shape))
        assert limits is not None
        return cls(limits, tree, learns=False)

    @classmethod
    def of_budget(cls, budget: int) -> TreePlan:
        """What the engine grows for Config(structure="tree", budget=budget)."""
        limits = FREE.limits(budget, None, budget)
        return cls(replace(limits, reach=limits.depth))

    @property
    def name(self) -> str:
        shape = self.structure.shape
        return f"tree of {self.limits.budget}" if shape is None else f"tree {'·'.join(map(str, shape))}"


@dataclass(frozen=True)
class Forecast:
    """Tokens of a round on surrogate rows.

    nodes, passes, level_rows  per round: verified nodes, drafter passes, rows of every pass.
    off_text                   share of the target's rows that were borrowed.
    """

    tokens: Estimate
    nodes: float
    passes: float
    level_rows: Sequence[float]
    off_text: float


@dataclass
class Surrogate:
    """Rows for every prefix; `seed` decides between matches that are equally long."""

    rows: PairRows
    seed: int = 0
    _places: dict[tuple[int, ...], list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._places = defaultdict(list)
        for span, text in zip(self.rows.spans, self.rows.texts, strict=True):
            for row in range(span.begin, span.end):
                at = text.start + row - span.begin
                for length in range(1, min(LONGEST_MATCH, at) + 1):
                    self._places[text.tokens[at - length : at]].append(row)

    def row_of(self, start: int, drafted: Sequence[int]) -> tuple[int, bool]:
        """The row that stands for `drafted` tokens behind row `start`, and whether it is the text's own."""
        number = int(self.rows.text_of[start])
        span, text = self.rows.spans[number], self.rows.texts[number]
        at = text.start + start - span.begin
        if start + len(drafted) < span.end and text.tokens[at : at + len(drafted)] == tuple(drafted):
            return start + len(drafted), True
        prefix = (*text.tokens[max(0, at - LONGEST_MATCH) : at], *drafted)
        choice = random.Random(hash((self.seed, start, *drafted)))
        for length in range(min(LONGEST_MATCH, len(prefix)), 0, -1):
            places = self._places.get(prefix[-length:])
            if places:
                return choice.choice(places), False
        return choice.randrange(len(self.rows)), False


@dataclass(frozen=True)
class _Round:
    """One round on surrogate rows: expected tokens given the draft, and what the draft took."""

    length: float
    nodes: int
    level_rows: list[int]
    borrowed: int
    read: int


def forecast(rows: PairRows, plan: TreePlan, where: torch.Tensor, seed: int = 0) -> Forecast:
    """Tokens per round of a tree, from one round at every row of `where` (`anywhere`, `round_starts`)."""
    done = _rounds(rows, plan, where, seed)
    deepest = max((len(one.level_rows) for one in done), default=0)
    levels = [sum(one.level_rows[d] for one in done if d < len(one.level_rows)) / len(done) for d in range(deepest)]
    return Forecast(
        by_text(rows, where, _lengths(done)),
        sum(one.nodes for one in done) / len(done),
        sum(len(one.level_rows) for one in done) / len(done),
        levels,
        sum(one.borrowed for one in done) / max(1, sum(one.read for one in done)),
    )


def lengths(rows: PairRows, plan: TreePlan, where: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """f64[len(where)], tokens of one round at every row of `where`, expected given its draft."""
    return _lengths(_rounds(rows, plan, where, seed))


def _lengths(done: Sequence[_Round]) -> torch.Tensor:
    return torch.tensor([one.length for one in done], dtype=torch.float64)


def _rounds(rows: PairRows, plan: TreePlan, where: torch.Tensor, seed: int) -> list[_Round]:
    surrogate, calibration = Surrogate(rows, seed), _tables(rows, plan, seed)
    return [_one_round(surrogate, plan, calibration, row, seed) for row in where.tolist()]


def anywhere(rows: PairRows, depth: int, count: int) -> torch.Tensor:
    """i64, about `count` rows where no round of this depth would be cut short, evenly spread."""
    where = starts(rows, depth + 1)
    step = max(1, len(where) // count)
    return where[step // 2 :: step]


def round_starts(rows: PairRows, depth: int, count: int) -> torch.Tensor:
    """i64, rows as often as rounds of whole generations start there, `count` in all, evenly spread over those odds.

    Rounds near the end of a text are among them; they draft no deeper than leaves room for the bonus token. The odds are those
    of a block-verified chain of the same depth, which are known exactly; those of a tree are not.
    """
    chain = Plan("walk", (1,) * depth, "fixed") if rows.greedy else Plan("block", (1,) * depth)
    given = survival(rows, chain).given
    begins = torch.cat([rounds(given[span.begin : span.end], span.limit - span.begin)[0] for span in rows.spans])
    odds = begins.cumsum(0)
    marks = (torch.arange(count, dtype=torch.float64) + 0.5) / count * odds[-1]
    return torch.searchsorted(odds, marks).clamp(max=len(rows) - 1)


@dataclass(frozen=True)
class Check:
    """What the surrogate says of a chain, what is true, and the difference, paired row by row: the surrogate's own error."""

    said: Estimate
    true: Estimate
    off: Estimate


def check_on_chains(rows: PairRows, depth: int, count: int, seed: int = 0) -> Check:
    """The surrogate against the identity of block verification (the longest match at temperature 0), at the same rows."""
    chain = Plan("walk", (1,) * depth, "fixed") if rows.greedy else Plan("block", (1,) * depth)
    where = anywhere(rows, depth, count)
    true = 1.0 + survival(rows, chain).expected[where].sum(dim=1)
    said = lengths(rows, TreePlan.of_shape(chain.shape), where, seed)
    return Check(*(by_text(rows, where, values) for values in (said, true, said - true)))


def _tables(rows: PairRows, plan: TreePlan, seed: int) -> Calibration:
    calibration = Calibration()
    if plan.learns:
        for row in random.Random(seed).sample(range(len(rows)), min(LEARNT_FROM, len(rows))):
            if rows.greedy:
                best = sharpen(rows.q[row][None], calibration.sharpness)[0].topk(min(8, rows.q.shape[1]))
                promised, chosen = best.values.tolist(), rows.p[row][best.indices].tolist()
                calibration.observe_fixed(promised, chosen)
                calibration.observe_best(promised[0], chosen[0])
            else:
                calibration.observe(rows.q[row], rows.p[row])
    return calibration


def _one_round(surrogate: Surrogate, plan: TreePlan, calibration: Calibration, start: int, seed: int) -> _Round:
    noise = random.Random(hash((seed, start)))
    left = surrogate.rows.spans[int(surrogate.rows.text_of[start])].limit - start
    limits = replace(plan.limits, reach=min(plan.limits.depth, left - 1))  # the bonus token is the last one
    level_rows: list[int] = []
    evaluate = _evaluator(surrogate, plan, calibration, start, level_rows)

    def draw(laws: torch.Tensor, depth: int, addresses: Sequence[int]) -> list[int]:
        return sample_rows(laws, [noise.random() for _ in addresses])

    greedy = surrogate.rows.greedy
    tree = plan.structure.grow(Growth(limits, evaluate, None if greedy else draw, calibration)).tree()
    found = [surrogate.row_of(start, tree.path_tokens(node)) for node in range(ROOT, len(tree))]
    stop = get_rule("walk" if greedy else "layer").outcome(tree, surrogate.rows.p[[row for row, _ in found]]).stop
    length = 1.0 + sum(prob * depth for prob, depth in zip(stop[1:], tree.depths, strict=True))
    return _Round(length, len(tree), level_rows, sum(not own for _, own in found), len(found))


def _evaluator(
    surrogate: Surrogate, plan: TreePlan, calibration: Calibration, start: int, level_rows: list[int]
) -> Evaluate:
    """The drafter's passes on surrogate rows, as sharp as the engine makes them; `level_rows` counts the rows of every pass."""
    sharpness = 1.0 / calibration.temperature
    if surrogate.rows.greedy:
        sharpness = calibration.sharpness if plan.structure.narrows else 1.0

    def evaluate(graph: DraftGraph, nodes: Sequence[int]) -> torch.Tensor:
        level_rows.append(len(nodes))
        found = [surrogate.row_of(start, graph.path_tokens(node))[0] for node in nodes]
        laws = surrogate.rows.q[found]
        return laws if sharpness == 1.0 else sharpen(laws, sharpness)

    return evaluate
