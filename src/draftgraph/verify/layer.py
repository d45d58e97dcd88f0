"""The layer rule: joint verification of a whole draft tree, layer by layer. The default.

It *is* block verification on a chain, *is* recursive rejection at depth 1, has the law of the target walk on a
deterministic tree, and is the longest match at temperature 0. Proof of losslessness: docs/layer_rule.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from draftgraph.types import FIXED, Outcome, TokenTree
from draftgraph.verify.base import EVERY_LAW, EVERY_STRUCTURE, Accepts, Rule


@dataclass
class _Layer:
    """The nodes of one depth that carry target mass (rows of p), after their slots were placed.

    missing   f, target mass that ended above this layer (0 at the root).
    masses    |R_v|, target mass that stays at each row for its bonus token.
    residual  R, f[len(inner), V], of the rows that have children; a leaf keeps R = w p.
    """

    rows: list[int]
    missing: float
    masses: list[float]
    inner: list[int]
    residual: torch.Tensor


class LayerRule(Rule):
    name: ClassVar[str] = "layer"
    source: ClassVar[str] = "draftgraph (on a chain: Block Verification, arXiv 2403.10444)"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(EVERY_LAW, EVERY_STRUCTURE)

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        layers = place(tree, p)
        stop = [0.0] * (len(tree) + 1)
        carry = 1.0  # probability that no deeper layer has stopped
        for layer in reversed(layers):
            total = layer.missing + sum(layer.masses)
            if total > 0.0:
                for row, mass in zip(layer.rows, layer.masses, strict=True):
                    stop[row] = carry * mass / total
                carry *= layer.missing / total
        if not any(stop):  # p = q up to rounding left no residual anywhere; the root is where such a round stops
            stop[0] = 1.0
        residuals = {row: layer.residual[i] for layer in layers for i, row in enumerate(layer.inner)}

        def bonus(row: int) -> torch.Tensor:
            residual = residuals.get(row, p[row])
            return residual if bool(residual.any()) else p[row]

        return Outcome(stop, bonus)


def place(tree: TokenTree, p: torch.Tensor) -> list[_Layer]:
    """Top-down pass: how much target mass every node may carry (w), and what stays above it (R)."""
    weights = [1.0] + [0.0] * len(tree)
    layers: list[_Layer] = []
    live = [0]
    while live:
        missing = 0.0 if not layers else max(0.0, 1.0 - sum(weights[row] for row in live))
        live.sort(key=lambda row: -weights[row])
        layer = _place_layer(tree, p, weights, live, missing)
        layers.append(layer)
        live = [node + 1 for row in layer.inner for node in tree.children[row] if weights[node + 1] > 0.0]
    return layers


def _place_layer(tree: TokenTree, p: torch.Tensor, weights: list[float], live: list[int], missing: float) -> _Layer:
    """Place the slots below the rows `live` (by mass, largest first): SAMPLED first, FIXED last."""
    masses = [weights[row] for row in live]
    inner = [i for i, row in enumerate(live) if tree.children[row]]
    rows = [live[i] for i in inner]
    if not inner:
        return _Layer(live, missing, masses, [], p[:0])
    residual = p[rows]
    residual *= torch.tensor([[weights[row]] for row in rows], dtype=p.dtype, device=p.device)
    keep = 1.0  # m: probability that no slot of this layer was accepted so far
    capacity = missing + sum(masses)  # c
    for i, row, r in zip(inner, rows, residual, strict=True):
        for node in tree.children[row]:
            if tree.law_row[node] == FIXED:
                continue
            law = tree.laws[tree.law_row[node]]  # type: ignore[index]  # checked when the tree was built
            token = tree.tokens[node]
            bound = capacity * law[token].item()
            accept = min(1.0, r[token].item() / bound) if bound > 0.0 else 0.0
            weights[node + 1] = keep * accept
            keep *= 1.0 - accept
            torch.sub(r, law, alpha=capacity, out=r).clamp_(min=0.0)
            # c is recomputed from its parts, never by subtraction: small masses would drown in rounding
            masses[i] = r.sum(dtype=torch.float64).item()
            capacity = missing + sum(masses)
    _place_fixed(tree, rows, residual, weights, keep / capacity if capacity > 0.0 else 0.0)
    for i, mass in zip(inner, residual.sum(dim=1, dtype=torch.float64).tolist(), strict=True):
        masses[i] = mass
    return _Layer(live, missing, masses, rows, residual)


def _place_fixed(tree: TokenTree, rows: list[int], residual: torch.Tensor, weights: list[float], scale: float) -> None:
    """FIXED slots: w = m R[x] / c. One after the other m and c shrink by the same factor, so `scale` = m / c stays."""
    nodes = [(i, node) for i, row in enumerate(rows) for node in tree.children[row] if tree.law_row[node] == FIXED]
    if not nodes:
        return
    seen: set[tuple[int, int]] = set()
    index = torch.tensor([[i, tree.tokens[node]] for i, node in nodes], device=residual.device).T
    values = residual[index[0], index[1]].tolist()
    for (i, node), value in zip(nodes, values, strict=True):
        slot = (i, tree.tokens[node])
        if slot not in seen:  # a repeated token finds R[x] = 0
            weights[node + 1] = min(1.0, scale * value)
        seen.add(slot)
    residual[index[0], index[1]] = 0.0
