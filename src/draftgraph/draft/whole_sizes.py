"""How many nodes of a draft are verified, where every slot is FIXED, so that the number may look at the draft.

Every size is priced as a whole. Rows are not priced one by one: the kernels of a pass change with their number, so that a
third node may cost less than a second one, and then no node would ever pay for its own row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from draftgraph.draft.graph import DraftGraph


def best_size(gains: Sequence[float], seconds: Sequence[float]) -> int:
    """The number N for which the first N nodes give most expected tokens per second; 0 where plain decoding does.

    gains    expected accepted tokens of each node, in the order in which nodes are taken.
    seconds  of a round that verifies 0, 1, … nodes. No larger draft is considered.
    """
    tokens = accumulate(gains[: len(seconds) - 1], initial=1.0)
    rates = [expected / whole for expected, whole in zip(tokens, seconds, strict=False)]
    return rates.index(max(rates))


def cut(graph: DraftGraph, seconds: Sequence[float], worth: Callable[[float], float]) -> DraftGraph:
    """The likeliest nodes of a draft without SAMPLED slots, as many as pay best. Without `seconds` all of them.

    worth  expected accepted tokens of a node, by its score.
    """
    if not seconds or not len(graph):
        return graph
    order = sorted(range(len(graph)), key=lambda node: (-graph.scores[node], node))  # parents first: scores never rise
    size = best_size([worth(graph.scores[node]) for node in order], seconds)
    return graph if size == len(graph) else graph.subset(order[:size])
