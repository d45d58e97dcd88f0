"""How many nodes of a draft are verified, where every slot is FIXED, so that the number may look at the draft.

Every size is priced as a whole. Rows are not priced one by one: the kernels of a pass change with their number, so that a
third node may cost less than a second one, and then no node would ever pay for its own row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile
from typing import NamedTuple

from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.terms import Limits
from draftgraph.types import ROOT


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


def cut(graph: DraftGraph, limits: Limits) -> DraftGraph:
    """The likeliest nodes of a draft without SAMPLED slots, as many as pay best. Where the limits have no prices all of them."""
    return cut_to_pay(graph, limits)[0] if limits.seconds and len(graph) else graph


def cut_to_pay(graph: DraftGraph, limits: Limits) -> tuple[DraftGraph, Paying]:
    """As `cut`, and what a round with that draft is expected to give.

    Where a branch takes the rows of its whole path, the likeliest path alone is priced as well.
    """
    # Scores never rise along a path, so that parents come first.
    orders = [sorted(range(len(graph)), key=lambda node: (-graph.scores[node], node))]
    if limits.path is not None:
        orders.append(_likeliest_path(graph))
    found = [(_paying(graph, order, limits), order) for order in orders]
    best, order = max(found, key=lambda each: each[0].rate)
    return graph if best.size == len(graph) else graph.subset(order[: best.size]), best


def _paying(graph: DraftGraph, order: Sequence[int], limits: Limits) -> Paying:
    seconds = limits.seconds
    if limits.path is not None:
        number = {node: i for i, node in enumerate(order)}
        sizes = unrolled([number.get(graph.parents[node], ROOT) for node in order])
        known = takewhile(lambda size: size.rows <= len(limits.seconds), sizes)
        seconds = [limits.seconds[size.rows - 1] + limits.path * (size.paths - 1) for size in known]
    return paying([limits.worth(graph.scores[node]) for node in order], seconds)


class Unrolled(NamedTuple):
    """A pass that reads every path as a sequence of its own behind the last committed token."""

    rows: int
    paths: int


def unrolled(parents: Sequence[int]) -> list[Unrolled]:
    """The passes that read the first 0, 1, … nodes."""
    rows, depths, leaves = [1], {ROOT: 0}, {ROOT}
    paths = [1]
    for node, parent in enumerate(parents):
        depths[node] = depths[parent] + 1
        rows.append(rows[-1] + (1 if parent in leaves else 1 + depths[node]))
        leaves.discard(parent)
        leaves.add(node)
        paths.append(len(leaves))
    return [Unrolled(*each) for each in zip(rows, paths, strict=True)]


def _likeliest_path(graph: DraftGraph) -> list[int]:
    """From a child of the root down, always on to the likeliest child."""
    likeliest: dict[int, int] = {}
    for node, parent in enumerate(graph.parents):
        if parent not in likeliest or graph.scores[node] > graph.scores[likeliest[parent]]:
            likeliest[parent] = node
    path, last = [], ROOT
    while last in likeliest:
        last = likeliest[last]
        path.append(last)
    return path
