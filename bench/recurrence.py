"""How much the hypotheses of a draft share, and what it costs to reach a length: arithmetic only."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from draftgraph.types import ROOT, TokenTree

ORDERS = (1, 2, 3)
Recurring = tuple[tuple[int, int], ...]
"""For n = 1, 2, 3: nodes whose last n drafted tokens occur at another node too, and those that occurred at an earlier one."""


def recurring(tree: TokenTree) -> Recurring:
    """Count the nodes whose last n tokens, all of this draft, occur elsewhere in the draft; n of ORDERS."""
    tails: list[tuple[int, ...]] = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        above = () if parent == ROOT else tails[parent]
        tails.append((*above, token)[-ORDERS[-1] :])
    counts = [Counter(tail[-n:] for tail in tails if len(tail) >= n) for n in ORDERS]
    return tuple((sum(c for c in count.values() if c > 1), sum(c - 1 for c in count.values())) for count in counts)


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, length) points that no other one reaches more cheaply, from (0, 0) = not drafting at all upwards."""
    best: list[tuple[float, float]] = [(0.0, 0.0)]
    for cost, length in sorted(points, key=lambda point: (point[0], -point[1])):
        if length > best[-1][1]:
            best.append((cost, length))
    return best


def cost_of(length: float, points: Iterable[tuple[float, float]]) -> float | None:
    """The cost at which `points` reach a length, linear between the best of them; None if they do not reach it."""
    best = front(points)
    after = bisect_left([reached for _, reached in best], length)
    if after == len(best):
        return None
    if after == 0:
        return best[0][0]
    (c0, l0), (c1, l1) = best[after - 1], best[after]
    return c0 + (c1 - c0) * (length - l0) / (l1 - l0)


def saved(point: tuple[float, float], others: Sequence[tuple[float, float]]) -> float | None:
    """Share of the cost that (cost, length) saves against `others` at its own length; None where they do not reach it."""
    needed = cost_of(point[1], others)
    return None if needed is None or needed == 0.0 else 1.0 - point[0] / needed


def passes_worth(gain: float, lengths: Sequence[float], at: int) -> float:
    """How many further passes add `gain` to lengths[at], if lengths[i] is what i + 1 passes reach (and grows).

    Counted in whole measured steps and a share of the last; what lies beyond them goes on with the last step's slope.
    """
    left, passes = gain, 0.0
    steps = [later - now for now, later in pairwise(lengths[at:])]
    for step in steps:
        if step <= 0.0 or left < step:
            return passes + (left / step if step > 0.0 else 0.0)
        left, passes = left - step, passes + 1.0
    return passes + (left / steps[-1] if steps and steps[-1] > 0.0 else 0.0)
