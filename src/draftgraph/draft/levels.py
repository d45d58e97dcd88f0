"""Growth with SAMPLED slots: the level policy.

Level by level, one batched drafter pass each: every expanded node gets one SAMPLED child, and FIXED siblings (its most
likely tokens) where its estimated mass ŵ is large. The shape of a level is fixed before the level is drawn, from upper
levels only; looking at a drawn token before deciding about it or above it would bias the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from draftgraph.draft.base import Draw, Evaluate, Limits
from draftgraph.draft.calibrate import MAX_FIXED, Calibration
from draftgraph.draft.graph import DraftGraph, Row
from draftgraph.types import ROOT

SHARED_ROW = 8
"""Tokens of an evaluated row that edges may borrow."""
NO_MASS = 1e-6
"""Below this mass outside the FIXED siblings there is nothing left to sample from."""


@dataclass
class _Slots:
    """The slots planned below one node: `fixed` best tokens, then one SAMPLED token from the rest if `sampled`."""

    fixed: int
    sampled: bool


def grow_levels(evaluate: Evaluate, draw: Draw, limits: Limits, calibration: Calibration) -> tuple[DraftGraph, int]:
    """Grow a draft; returns the graph and the number of drafter passes."""
    graph = DraftGraph()
    frontier = [ROOT]
    for level in range(min(limits.depth, limits.reach)):
        left = limits.budget - len(graph)
        live = [node for node in frontier if graph.score(node) >= limits.floor]
        if left <= 0 or not live or sum(graph.score(node) for node in live) < limits.price_pass:
            return graph, level
        room = math.ceil(left / (limits.depth - level)) if limits.spread else left - (limits.depth - 1 - level)
        live.sort(key=lambda node: -graph.score(node))
        del live[max(1, room) :]
        q = evaluate(graph, live)
        top = _remember_rows(graph, live, q)
        plan = _allot([graph.score(node) for node in live], top, calibration, max(1, room), limits.floor)
        frontier = _place(graph, live, q, top, plan, draw, calibration)
    return graph, min(limits.depth, limits.reach)


def grow_branching(
    evaluate: Evaluate, draw: Draw | None, limits: Limits, branching: Sequence[int]
) -> tuple[DraftGraph, int]:
    """A tree of fixed shape: branching[d] children per node of depth d, the best ones FIXED.

    With `draw`, the last child of a node is SAMPLED from the rest of its row instead (the hybrid of the layer rule).
    """
    graph = DraftGraph()
    frontier = [ROOT]
    calibration = Calibration()
    passes = 0
    for children in branching[: limits.reach]:
        frontier = frontier[: max(0, (limits.budget - len(graph)) // children)]
        if not frontier:
            break
        q = evaluate(graph, frontier)
        passes += 1
        top = _remember_rows(graph, frontier, q, children)
        plan = [_branch(row, children, draw is not None) for row in top]
        frontier = _place(graph, frontier, q, top, plan, draw, calibration)
    return graph, passes


def _branch(row: Row, children: int, sampled: bool) -> _Slots:
    possible = sum(prob > NO_MASS for prob in row.probs)
    if sampled and 1.0 - sum(row.probs[: children - 1]) > NO_MASS:
        return _Slots(min(children - 1, possible), True)
    return _Slots(min(children, possible), False)


def _remember_rows(graph: DraftGraph, nodes: Sequence[int], q: torch.Tensor, least: int = 0) -> list[Row]:
    """The head of every evaluated row; edges may borrow it."""
    probs, tokens = q.topk(min(max(SHARED_ROW, least), q.shape[1]), dim=1)
    rows = [Row(t, w) for t, w in zip(tokens.tolist(), probs.tolist(), strict=True)]
    graph.rows.update(zip(nodes, rows, strict=True))
    return rows


def _allot(
    masses: Sequence[float], top: Sequence[Row], calibration: Calibration, room: int, floor: float
) -> list[_Slots]:
    """Give the level's slots to the nodes where they gain most. Nodes come in order of mass.

    Two sweeps: a node's slack depends on the capacity that SAMPLED slots of heavier nodes leave, which is first taken as 1.
    """
    capacity = [1.0] * len(masses)
    slots: list[_Slots] = []
    for _ in range(2):
        gains = [
            (gain, -v, j)
            for v, (mass, row, c) in enumerate(zip(masses, top, capacity, strict=True))
            for j, gain in enumerate(_gains(mass, row, calibration, c))
            if gain >= floor or (v == j == 0)
        ]
        gains.sort(reverse=True)
        counts = [0] * len(masses)
        for _, v, _ in gains[:room]:
            counts[-v] += 1
        slots, capacity, left = [], [], 1.0
        for mass, row, count in zip(masses, top, counts, strict=True):
            rest = 1.0 - sum(row.probs[: max(0, count - 1)])
            slots.append(_Slots(max(0, count - 1), count > 0) if rest > NO_MASS else _Slots(count, False))
            capacity.append(max(left, 1e-3))
            if count and rest > NO_MASS:
                left -= _sampled_mass(mass, row, count - 1, calibration, max(left, 1e-3))
    return slots


def _gains(mass: float, row: Row, calibration: Calibration, capacity: float) -> list[float]:
    """Expected mass that the j-th slot of a node adds, made non-increasing: slots = (j − 1) FIXED + 1 SAMPLED."""
    totals = [0.0]
    fixed_mass = 0.0
    for fixed in range(min(MAX_FIXED, len(row.probs)) + 1):
        totals.append(fixed_mass + _sampled_mass(mass, row, fixed, calibration, capacity))
        if fixed < len(row.probs):
            fixed_mass += mass * calibration.mass(row.probs[fixed], fixed)
            if fixed_mass > mass:
                break
    return pooled([after - before for before, after in pairwise(totals)])


def pooled(gains: Sequence[float]) -> list[float]:
    """Pool adjacent gains until they do not increase, so that taking the largest first respects the order of slots."""
    blocks: list[tuple[float, int]] = []
    for gain in gains:
        blocks.append((gain, 1))
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (a, n), (b, m) = blocks[-2], blocks[-1]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return [gain for gain, count in blocks for _ in range(count)]


def _sampled_mass(mass: float, row: Row, fixed: int, calibration: Calibration, capacity: float) -> float:
    """ŵ of the SAMPLED slot beside `fixed` FIXED ones: r B(h, c / r) with r the target's mass outside the FIXED tokens."""
    rest = mass * max(0.0, 1.0 - sum(calibration.mass(prob, rank) for rank, prob in enumerate(row.probs[:fixed])))
    if rest <= 0.0:
        return 0.0
    head = row.probs[fixed] / max(1.0 - sum(row.probs[:fixed]), NO_MASS) if fixed < len(row.probs) else 0.0
    return rest * calibration.kept(head, capacity / rest)


def _place(
    graph: DraftGraph,
    nodes: Sequence[int],
    q: torch.Tensor,
    top: Sequence[Row],
    plan: Sequence[_Slots],
    draw: Draw | None,
    calibration: Calibration,
) -> list[int]:
    """Append the planned slots: FIXED tokens, and one fresh draw per node from the row that is stored as its law."""
    chosen = [i for i, slots in enumerate(plan) if slots.sampled]
    laws = q[chosen] if len(chosen) < len(nodes) or any(plan[i].fixed for i in chosen) else q
    out = [(k, token) for k, i in enumerate(chosen) for token in top[i].tokens[: plan[i].fixed]]
    if out:
        index = torch.tensor(out, device=q.device).T
        laws[index[0], index[1]] = 0.0
        laws = laws / laws.sum(dim=1, keepdim=True)
    drawn = draw(laws, graph.depth(nodes[0]) + 1, chosen) if draw is not None and chosen else []
    first_law = graph.add_laws(laws) if chosen else 0
    children: list[int] = []
    left = 1.0
    for i, node in enumerate(nodes):
        mass, slots, row = graph.score(node), plan[i], top[i]
        for rank in range(slots.fixed):
            if row.probs[rank] > 0.0:
                children.append(graph.add(node, row.tokens[rank], mass * calibration.mass(row.probs[rank], rank)))
        if slots.sampled:
            k = chosen.index(i)
            kept = _sampled_mass(mass, row, slots.fixed, calibration, max(left, 1e-3))
            left -= kept
            children.append(graph.add(node, drawn[k], kept, law=first_law + k))
    return children
