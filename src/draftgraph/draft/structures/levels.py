"""Growth with SAMPLED slots: the level policy.

Level by level, one batched drafter pass each: every expanded node gets one SAMPLED child, and FIXED siblings (its most
likely tokens) where its estimated mass ŵ is large. The shape of a level is fixed before the level is drawn, from upper
levels only; looking at a drawn token before deciding about it or above it would bias the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

import torch

from draftgraph.draft.graph import SHARED_ROW, DraftGraph, Row
from draftgraph.draft.isotonic import pooled
from draftgraph.draft.structures.calibrate import MAX_FIXED, Calibration
from draftgraph.draft.structures.children import NO_MASS, without
from draftgraph.draft.terms import Draw, Evaluate, Limits
from draftgraph.types import ROOT

LEAST_CAPACITY = 1e-3


def grow_levels(evaluate: Evaluate, draw: Draw, limits: Limits, calibration: Calibration) -> tuple[DraftGraph, int]:
    """Grow a draft; returns the graph and the number of drafter passes."""
    graph = DraftGraph(across=True)
    frontier, floor = [(ROOT, 1.0)], limits.floor
    for level in range(min(limits.depth, limits.reach)):
        left = limits.budget - len(graph)
        live = [(node, mass) for node, mass in frontier if mass >= floor]
        if left <= 0 or not live or sum(mass for _, mass in live) < limits.price_pass(level):
            return graph, level
        later = limits.depth - 1 - level
        room = max(1, math.ceil(left / (later + 1)) if limits.spread else left - later)
        live.sort(key=itemgetter(1), reverse=True)
        nodes = [node for node, _ in live[:room]]
        q = evaluate(graph, nodes)
        rows = graph.remember(nodes, q, SHARED_ROW)
        menus = [_Menu.of(mass, row, calibration) for (_, mass), row in zip(live, rows, strict=False)]
        first = len(graph)
        _place(graph, nodes, q, rows, _allot(menus, calibration, room, floor), draw, calibration)
        frontier = [*enumerate(graph.scores[first:], first)]
    return graph, min(limits.depth, limits.reach)


class _Slots(NamedTuple):
    """The slots planned below one node: `fixed` best tokens, then one SAMPLED token of expected mass `kept`, if any."""

    fixed: int
    kept: float | None


class _Menu(NamedTuple):
    """What a node's slots may be: k = 0, 1, … FIXED siblings and one SAMPLED child.

    fixed[k]  share of the node's mass that its k best tokens are expected to take.
    heads[k]  the largest entry of its row without them, renormalised.
    """

    mass: float
    fixed: list[float]
    heads: list[float]

    @classmethod
    def of(cls, mass: float, row: Row, calibration: Calibration, most: int = MAX_FIXED) -> _Menu:
        fixed, heads, rest, share = [0.0], [row.probs[0]], 1.0, 0.0
        for rank, (prob, following) in enumerate(pairwise(row.probs[: most + 1])):
            rest -= prob
            share = min(share + calibration.mass(prob, rank), 1.0 - NO_MASS)
            if rest < NO_MASS or following <= 0.0:
                break
            fixed.append(share)
            heads.append(following / rest)
        return cls(mass, fixed, heads)

    def sampled(self, k: int, capacity: float, calibration: Calibration) -> float:
        """ŵ of the SAMPLED child beside k FIXED ones: r B(h, c / r) with r the target's mass outside the FIXED tokens."""
        rest = self.mass * (1.0 - self.fixed[k])
        return rest * calibration.kept(self.heads[k], capacity / rest)

    def gains(self, capacity: float, calibration: Calibration) -> list[float]:
        """Expected mass that the j-th slot adds, made non-increasing: j slots are j − 1 FIXED ones and a SAMPLED one."""
        totals = [self.mass * share + self.sampled(k, capacity, calibration) for k, share in enumerate(self.fixed)]
        return pooled([after - before for before, after in pairwise([0.0, *totals])])


def _allot(menus: Sequence[_Menu], calibration: Calibration, room: int, floor: float) -> list[_Slots]:
    """Give the level's slots to the nodes where they gain most. Nodes come in order of mass.

    Two sweeps: a node's slack depends on the capacity that SAMPLED slots of heavier nodes leave, which is first taken as 1.
    That of the heaviest node is 1.
    """
    heaviest = menus[0].gains(1.0, calibration)
    if len(menus) == 1:
        count = sum(gain >= floor for gain in heaviest[1:room])  # its gains do not increase
        return [_Slots(count, menus[0].sampled(count, 1.0, calibration))]
    capacity = [1.0] * len(menus)
    plan: list[_Slots] = []
    for _ in range(2):
        offers = [heaviest, *(menu.gains(c, calibration) for menu, c in zip(menus[1:], capacity[1:], strict=True))]
        gains = [
            (gain, -v)
            for v, offered in enumerate(offers)
            for j, gain in enumerate(offered)
            if gain >= floor or (v == j == 0)
        ]
        gains.sort(reverse=True)
        counts = [0] * len(menus)
        for _, v in gains[:room]:
            counts[-v] += 1
        plan, capacity, left = [], [], 1.0
        for menu, count in zip(menus, counts, strict=True):
            capacity.append(max(left, LEAST_CAPACITY))
            kept = menu.sampled(count - 1, capacity[-1], calibration) if count else None
            left -= kept or 0.0
            plan.append(_Slots(max(0, count - 1), kept))
    return plan


def _place(
    graph: DraftGraph,
    nodes: Sequence[int],
    q: torch.Tensor,
    rows: Sequence[Row],
    plan: Sequence[_Slots],
    draw: Draw,
    calibration: Calibration,
) -> None:
    """Append the planned slots: FIXED tokens, and one fresh draw per node from the row that is stored as its law."""
    chosen = [i for i, slots in enumerate(plan) if slots.kept is not None]
    drawn_from = q if len(chosen) == len(plan) else q[chosen]
    laws = without(drawn_from, [rows[i].tokens[: plan[i].fixed] for i in chosen])
    drawn = iter(draw(laws, graph.depth(nodes[0]) + 1, chosen) if chosen else ())
    law = graph.add_laws(laws) if chosen else 0
    for node, slots, row in zip(nodes, plan, rows, strict=True):
        for rank, (token, prob) in enumerate(zip(row.tokens[: slots.fixed], row.probs, strict=False)):
            if prob > 0.0:
                graph.add(node, token, graph.score(node) * calibration.mass(prob, rank))
        if slots.kept is not None:
            graph.add(node, next(drawn), slots.kept, law=law)
            law += 1
