"""How many nodes of a draft are verified, where every slot is FIXED, so that the number may look at the draft.

Every size is priced as a whole. Rows are not priced one by one: the kernels of a pass change with their number, so that a
third node may cost less than a second one, and then no node would ever pay for its own row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from draftgraph.draft.graph import DraftGraph


class Paying(NamedTuple):
    """How many nodes pay best, and what a round is expected to give with them: tokens, and tokens per second."""

    size: int
    tokens: float
    rate: float


def paying(gains: Sequence[float], seconds: Sequence[float]) -> Paying:
    """The number N for which the first N nodes give most expected tokens per second, and what they give.

    N is 0 where plain decoding gives most.

    gains    expected accepted tokens of each node, in the order in which nodes are taken.
    seconds  of a round that verifies 0, 1, … nodes. No larger draft is considered.
    """
    tokens = list(accumulate(gains[: len(seconds) - 1], initial=1.0))
    rates = [expected / whole for expected, whole in zip(tokens, seconds, strict=False)]
    best = max(rates)
    size = rates.index(best)
    return Paying(size, tokens[size], best)


def cut(graph: DraftGraph, seconds: Sequence[float], worth: Callable[[float], float]) -> DraftGraph:
    """The likeliest nodes of a draft without SAMPLED slots, as many as pay best. Without `seconds` all of them.

    worth  expected accepted tokens of a node, by its score.
    """
    return cut_to_pay(graph, seconds, worth)[0] if seconds and len(graph) else graph


def cut_to_pay(
    graph: DraftGraph, seconds: Sequence[float], worth: Callable[[float], float]
) -> tuple[DraftGraph, Paying]:
    """As `cut`, and what a round with that draft is expected to give."""
    order = sorted(range(len(graph)), key=lambda node: (-graph.scores[node], node))  # parents first: scores never rise
    best = paying([worth(graph.scores[node]) for node in order], seconds)
    return graph if best.size == len(graph) else graph.subset(order[: best.size]), best
