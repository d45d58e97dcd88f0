"""Kinds of children: which tokens hang below a node, and the law of each.

One function per kind, for all nodes of a level at once. The slots of a node come in the order in which they are drawn, and
a rule verifies SAMPLED ones in that order: the law of a slot is its exact conditional law given the slots drawn before it.
Whatever a kind does, its tokens are drawn from the very tensors that are stored as their laws, so that no approximation in
here can bias the output. How many slots a node has depends on its row of q only, never on a drawn token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from draftgraph.draft.graph import SHARED_ROW, DraftGraph, Row
from draftgraph.draft.structures.calibrate import Calibration
from draftgraph.draft.terms import Draw, Evaluate
from draftgraph.types import FIXED

NO_MASS = 1e-5
"""Below this mass outside the FIXED siblings there is nothing left to sample from."""
_PRIORS = Calibration()
"""What slots are worth before anything is learnt."""


class Level:
    """The nodes of one level while they are given at most `most` slots each.

    q         f[n, V], the drafter's row behind every node; `rows` its best tokens.
    children  the new nodes behind every node, in the order of their slots.
    """

    def __init__(self, graph: DraftGraph, nodes: Sequence[int], q: torch.Tensor, draw: Draw | None, most: int) -> None:
        self.graph, self.nodes, self.q, self.draw = graph, nodes, q, draw
        self.rows = graph.remember(nodes, q, max(SHARED_ROW, most + 1))
        self.children: list[list[int]] = [[] for _ in nodes]
        self._left = [graph.score(node) for node in nodes]
        self._draws = 0

    def fix(self, counts: Sequence[int]) -> None:
        """Give every node the best `counts` tokens of its row that have any mass, FIXED."""
        for i, (row, count) in enumerate(zip(self.rows, counts, strict=True)):
            for token, prob in zip(row.tokens[:count], row.probs, strict=False):
                if prob > 0.0:
                    self._add(i, token, min(self._left[i], self.graph.score(self.nodes[i]) * prob))

    def store(self, laws: torch.Tensor) -> int:
        """Keep laws f[k, V]; returns the number of the first."""
        return self.graph.add_laws(laws)

    def sample(self, laws: torch.Tensor, first: int, which: Sequence[int]) -> list[int]:
        """Give the nodes number `which` one SAMPLED slot each, from laws f[len(which), V], stored from row `first` on.

        Returns the tokens.
        """
        assert self.draw is not None
        depth = 1 + self.graph.depth(self.nodes[0])
        tokens = self.draw(laws, depth, [i + self._draws * len(self.nodes) for i in which])
        self._draws += 1
        heads = [self.rows[i].probs[0] for i in which] if laws is self.q else laws.amax(dim=1).tolist()
        for row, (i, token, head) in enumerate(zip(which, tokens, heads, strict=True), first):
            left = self._left[i]
            self._add(i, token, left * _PRIORS.kept(head, 1.0 / left) if left > 0.0 else 0.0, row)
        return tokens

    def _add(self, i: int, token: int, mass: float, law: int = FIXED) -> None:
        """Append a slot; `mass`, of what is `left` of its parent's, is estimated from q alone."""
        self._left[i] -= mass
        self.children[i].append(self.graph.add(self.nodes[i], token, mass, law))


Kind = Callable[[Level, int], None]
"""kind(level, k): give every node of the level up to k slots."""


def fixed(level: Level, k: int) -> None:
    """The k best tokens, FIXED."""
    level.fix([k] * len(level.nodes))


def hybrid(level: Level, k: int) -> None:
    """The k - 1 best tokens FIXED, and one SAMPLED from the rest of q (greedy draft sampling, arXiv 2502.18779)."""
    counts = [_before_the_tail(row, k) for row in level.rows]
    level.fix(counts)
    laws = without(level.q, [row.tokens[:count] for row, count in zip(level.rows, counts, strict=True)])
    level.sample(laws, level.store(laws), range(len(level.nodes)))


def with_replacement(level: Level, k: int) -> None:
    """k SAMPLED i.i.d. from q; what is drawn twice stays twice (SpecTr, arXiv 2310.15141)."""
    first = level.store(level.q)
    for _ in range(k):
        level.sample(level.q, first, range(len(level.nodes)))


def without_replacement(level: Level, k: int) -> None:
    """k SAMPLED one after the other, each from q without the tokens before it (arXiv 2402.14160; arXiv 2402.12374)."""
    drawn: list[list[int]] = [[] for _ in level.nodes]
    support = (level.q > 0).sum(dim=1).tolist()
    for j in range(k):
        which = [i for i, size in enumerate(support) if size > j]
        if which:
            laws = without(level.q[which], [drawn[i] for i in which])
            for i, token in zip(which, level.sample(laws, level.store(laws), which), strict=True):
                drawn[i].append(token)


def spine(level: Level, k: int) -> None:
    """One SAMPLED from the whole of q, then the k - 1 best tokens FIXED.

    A FIXED token may repeat the SAMPLED one and stays: leaving it out would be a shape that looks at a drawn token.
    """
    level.sample(level.q, level.store(level.q), range(len(level.nodes)))
    level.fix([k - 1] * len(level.nodes))


def systematic(level: Level, k: int) -> None:
    """One systematic draw of k different tokens, x among them with probability min(1, c q(x)).

    Madow, Ann. Math. Stat. 20 (1949), with inclusion probabilities proportional to size. Tokens that are certain are
    FIXED. The others lie on a line, each as long as its inclusion probability, and one uniform u marks the points u,
    u + 1, ...: the law of the next point is what the interval [low, high) left for u by the tokens before it covers.
    Any order of the line will do; with the least likely tokens first most is accepted (measured under the layer rule).
    """
    counts = [_certain(row, k) for row in level.rows]
    level.fix(counts)
    rest = [i for i, count in enumerate(counts) if count < k]
    if not rest:
        return
    q = without(level.q[rest], [level.rows[i].tokens[: counts[i]] for i in rest]).double()
    more = torch.tensor([k - counts[i] for i in rest], device=q.device)  # points on the line
    order = q.argsort(dim=1, stable=True)
    line = q.gather(1, order).cumsum(dim=1)
    line = line / line[:, -1:] * more[:, None]  # exactly as long as it has points, without gaps
    ends = torch.empty_like(q).scatter_(1, order, line)
    starts = torch.empty_like(q).scatter_(1, order, torch.nn.functional.pad(line[:, :-1], (1, 0)))
    low, high = torch.zeros_like(ends[:, :1]), torch.ones_like(ends[:, :1])
    for j in range(int(more.max())):
        active = (more > j).nonzero()[:, 0]
        a, b, u, v = starts[active] - j, ends[active] - j, low[active], high[active]
        covered = (torch.minimum(b, v) - torch.maximum(a, u)).clamp_(min=0.0)
        laws = (covered / covered.sum(dim=1, keepdim=True)).to(level.q.dtype)
        which = [rest[i] for i in active.tolist()]
        tokens = torch.tensor(level.sample(laws, level.store(laws), which), device=q.device)[:, None]
        low[active] = torch.maximum(u, a.gather(1, tokens))
        high[active] = torch.minimum(v, b.gather(1, tokens))


KINDS: dict[str, Kind] = {
    kind.__name__: kind for kind in (hybrid, with_replacement, without_replacement, spine, systematic, fixed)
}
"""From the best one on, where a rule leaves the choice."""


def expand(
    graph: DraftGraph, nodes: Sequence[int], evaluate: Evaluate, draw: Draw | None, k: int, children: str
) -> list[list[int]]:
    """Give every node of a level up to k slots of a kind, or FIXED ones without `draw`. Returns the nodes below each."""
    level = Level(graph, nodes, _evaluate_once(evaluate, graph, nodes), draw, k)
    kind = fixed if draw is None else KINDS[children]
    kind(level, k)
    return level.children


def _evaluate_once(evaluate: Evaluate, graph: DraftGraph, nodes: Sequence[int]) -> torch.Tensor:
    """Rows behind nodes, f[n, V]; of nodes with the same prefix (a token drawn twice) only the first is evaluated.

    They then have the very same law, as i.i.d. paths must, and the same state in the drafter.
    """
    if len(nodes) == 1:
        return evaluate(graph, nodes)
    first: dict[tuple[int, ...], int] = {}
    same = [first.setdefault(tuple(graph.path_tokens(node)), node) for node in nodes]
    asked = list(first.values())
    q = evaluate(graph, asked)
    if len(asked) == len(nodes):
        return q
    graph.fed.update((node, graph.fed[other]) for node, other in zip(nodes, same, strict=True))
    return q[[asked.index(other) for other in same]]


def without(q: torch.Tensor, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
    """Rows of q f[n, V] without some tokens each, renormalised."""
    out = [(i, token) for i, row in enumerate(tokens) for token in row]
    if not out:
        return q
    rest = q.clone()
    for i, token in out:
        rest[i, token] = 0.0
    rest /= rest.sum(dim=1, keepdim=True)
    return rest


def _before_the_tail(row: Row, k: int) -> int:
    """How many best tokens, k - 1 at most, leave something to sample from."""
    rest = 1.0
    for count, (prob, following) in enumerate(pairwise(row.probs[:k])):
        rest -= prob
        if rest < NO_MASS or following <= 0.0:
            return count
    return min(k, len(row.probs)) - 1


def _certain(row: Row, k: int) -> int:
    """How many best tokens have inclusion probability 1 when k are drawn: all k where q has nothing beyond them."""
    rest = 1.0
    for count, prob in enumerate(row.probs[:k]):
        if rest < NO_MASS:
            break
        if (k - count) * prob < (1.0 - NO_MASS) * rest:  # c q(x) < 1 with c = (k - count) / rest
            return count
        rest -= prob
    return k
