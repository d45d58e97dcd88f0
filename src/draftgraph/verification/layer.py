"""The layer rule: joint verification of a whole draft tree, layer by layer. The default.

It *is* block verification on a chain, *is* recursive rejection at depth 1, has the law of the target walk on a
deterministic tree, and is the longest match at temperature 0. Proof of losslessness: docs/layer_rule.md.

Vectors and capacities stay on the device of p; the scalars of a layer are read together, not slot by slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch

from draftgraph.types import FIXED, Outcome, TokenTree
from draftgraph.verification.base import EVERY_LAW, EVERY_STRUCTURE, Accepts, Rule
from draftgraph.verification.block import chain_outcome
from draftgraph.verification.probabilities import Read, read
from draftgraph.verification.rows import Rows, as_tensor, copied, less, picked, positive, scaled, sums, together


class LayerRule(Rule):
    name: ClassVar[str] = "layer"
    source: ClassVar[str] = "draftgraph (on a chain: Block Verification, arXiv 2403.10444)"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(EVERY_LAW, EVERY_STRUCTURE)
    longest_match: ClassVar[bool] = True

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        return chain_outcome(tree, p) if tree.is_chain else tree_outcome(tree, p)


def tree_outcome(tree: TokenTree, p: torch.Tensor) -> Outcome:
    """The law of the verdict about any tree. About a chain `chain_outcome` says the same, in fewer steps."""
    layers, known = place(tree, p)
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

    def bonus(row: int) -> torch.Tensor:
        if not tree.children[row]:
            return p[row]
        residual = next((layer.residuals[row] for layer in layers if row in layer.residuals), None)
        if residual is None:
            residual = _without(known.p[row], tree, row)
        return as_tensor(residual) if bool(residual.any()) else p[row]

    return Outcome(stop, bonus, known.p_of, known.q_of)


def _without(law: Rows, tree: TokenTree, row: int) -> Rows:
    """law f[V] without the tokens of the (FIXED) slots below `row`."""
    law = copied(law)
    law[[tree.tokens[node] for node in tree.children[row]]] = 0.0
    return law


@dataclass
class _Layer:
    """The rows of one depth that carry target mass, heaviest first, and what is left of them once their slots are placed.

    shares     w, target mass that each row carries. missing  f, target mass that ended above this layer (0 at the root).
    masses     |R|, the part that stays at each row for its bonus token.
    residuals  R, f[V], of the rows with SAMPLED slots; elsewhere R = w p without the tokens of the FIXED slots.
    weights    w of the rows below.
    """

    rows: list[int]
    shares: list[float]
    missing: float
    masses: list[float]
    residuals: dict[int, Rows] = field(default_factory=dict)
    weights: dict[int, float] = field(default_factory=dict)


def place(tree: TokenTree, p: torch.Tensor) -> tuple[list[_Layer], _Known]:
    """Top-down pass: how much target mass every node may carry (w), and what stays above it (R)."""
    layers: list[_Layer] = []
    known = _Known(read(tree, p))
    rows, shares, missing = [0], [1.0], 0.0
    while rows:
        layer = _Layer(rows, shares, missing, list(shares))
        draws = _draws(tree, rows)
        single = {tree.parents[nodes[0]] for nodes in draws if len(nodes) == 1}
        if len(single) == len(draws):  # every draw at a row of its own
            keep = _place_single(tree, layer, [node for (node,) in draws], known)
        else:
            keep = _place_draws(tree, p, layer, draws)
        _place_fixed(tree, layer, known.p_of, keep)
        layers.append(layer)
        live = sorted((child for child in layer.weights.items() if child[1] > 0.0), key=lambda child: -child[1])
        rows, shares = [row for row, _ in live], [share for _, share in live]
        missing = max(0.0, 1.0 - sum(shares))
    known.settle()
    return layers, known


class _Slot(NamedTuple):
    """A SAMPLED slot that is placed below a row: of R = w p it takes c λ. share, capacity  w and c."""

    layer: _Layer
    row: int
    law: int
    share: float
    capacity: float


class _Known:
    """What is known of all rows and nodes.

    unsettled  slots whose residuals nothing has needed so far: they are worked out together.
    """

    def __init__(self, found: Read) -> None:
        self.p, self.laws, self.p_of, self.q_of = found
        self.unsettled: list[_Slot] = []

    def settle(self) -> None:
        """Work out R = (w p - c λ)_+ and its mass, for all slots that wait for it."""
        slots, self.unsettled = self.unsettled, []
        if not slots or self.laws is None:
            return
        residuals = scaled(picked(self.p, [slot.row for slot in slots]), [slot.share for slot in slots])
        less(residuals, picked(self.laws, [slot.law for slot in slots]), [slot.capacity for slot in slots])
        for slot, residual, mass in zip(slots, positive(residuals), sums(residuals), strict=True):
            slot.layer.residuals[slot.row] = residual
            slot.layer.masses[slot.layer.rows.index(slot.row)] = mass


def _place_single(tree: TokenTree, layer: _Layer, nodes: Sequence[int], known: _Known) -> float:
    """SAMPLED slots, one per row at most, those of the heaviest row first. Returns m.

    R is w p before the slot is placed, so that w of the child needs two numbers: min(1, w p(x) / c λ(x)).
    """
    keep = 1.0
    followed = any(tree.law_row[node] == FIXED for row in layer.rows for node in tree.children[row])
    for node in nodes:
        row = tree.parents[node] + 1
        # c is recomputed from its parts, never by subtraction: small masses would drown in rounding
        capacity, share = layer.missing + sum(layer.masses), layer.shares[layer.rows.index(row)]
        offer = capacity * (known.q_of[node] or 0.0)
        accept = min(1.0, share * known.p_of[node] / offer) if offer > 0.0 else 0.0
        layer.weights[node + 1] = keep * accept
        keep *= 1.0 - accept
        known.unsettled.append(_Slot(layer, row, tree.law_row[node], share, capacity))
        if followed or node != nodes[-1]:
            known.settle()
    return keep


def _place_draws(tree: TokenTree, p: torch.Tensor, layer: _Layer, draws: Sequence[Sequence[int]]) -> float:
    """SAMPLED slots, those of the heaviest row first. Returns m, the probability that none of them was accepted.

    A draw offers the capacity κ = c λ; each of its parents in turn takes min(κ, R) of it, which leaves κ and R.
    """
    masses = torch.tensor([*layer.shares, layer.missing], dtype=torch.float64, device=p.device)
    place_of = {row: i for i, row in enumerate(layer.rows)}
    readings: list[torch.Tensor] = []  # κ(x) and R(x) of every slot, before it is placed
    residuals: dict[int, torch.Tensor] = {}
    for nodes in draws:
        token, row_of_law = tree.tokens[nodes[0]], tree.law_row[nodes[0]]
        law = tree.laws[row_of_law]  # type: ignore[index]  # checked when the tree was built
        # c is recomputed from its parts, never by subtraction: small masses would drown in rounding
        capacity = masses.sum().to(law.dtype)
        offered = law * capacity if len(nodes) > 1 else None  # κ, as a vector only where parents share it
        for node in nodes:
            row = tree.parents[node] + 1
            if row not in residuals:
                residuals[row] = p[row] * layer.shares[place_of[row]]
            residual = residuals[row]
            if offered is None:
                readings.append(torch.stack((law[token] * capacity, residual[token])))
                residual.addcmul_(law, capacity, value=-1.0).clamp_(min=0.0)
            else:
                readings.append(torch.stack((offered[token], residual[token])))
                left = (offered - residual).clamp_(min=0.0)
                residual.sub_(offered).clamp_(min=0.0)
                offered = left
            torch.sum(residual, 0, dtype=torch.float64, out=masses[place_of[row]])
    layer.residuals.update(residuals)
    *layer.masses, _ = masses.tolist()
    return _accept(draws, torch.stack(readings).tolist(), layer.weights)


def _draws(tree: TokenTree, rows: Sequence[int]) -> list[list[int]]:
    """The draws below `rows`, in order; a draw is the list of the nodes that hang on it, usually one."""
    draws: dict[int, list[int]] = {}
    for row in rows:
        for node in tree.children[row]:
            if tree.law_row[node] != FIXED:
                draws.setdefault(node if tree.draws is None else tree.draws[node], []).append(node)
    return list(draws.values())


def _accept(draws: Sequence[Sequence[int]], readings: Sequence[Sequence[float]], weights: dict[int, float]) -> float:
    """w = m a with a = min(κ(x), R(x)) / (c λ(x)), for every slot of every draw; returns m after all of them."""
    keep = 1.0
    pairs = iter(readings)
    for nodes in draws:
        offer = taken = 0.0
        for node, (capacity, residual) in zip(nodes, pairs, strict=False):
            offer = offer or capacity  # c λ(x), before any parent took of it
            accept = min(capacity, residual) / offer if offer > 0.0 else 0.0
            weights[node + 1] = keep * accept
            taken += accept
        keep *= max(0.0, 1.0 - taken)
    return keep


def _place_fixed(tree: TokenTree, layer: _Layer, p: Sequence[float], keep: float) -> None:
    """FIXED slots: w = m R(x) / c. One after the other m and c shrink by the same factor, so m / c stays."""
    slots: dict[tuple[int, int], int] = {}  # a repeated token finds R(x) = 0
    for row in layer.rows:
        for node in tree.children[row]:
            if tree.law_row[node] == FIXED:
                slots.setdefault((row, tree.tokens[node]), node)
    if not slots:
        return
    capacity = layer.missing + sum(layer.masses)
    scale = keep / capacity if capacity > 0.0 else 0.0
    place_of = {row: i for i, row in enumerate(layer.rows)}
    residuals_at = _take_out([slot for slot in slots if slot[0] in layer.residuals], layer)
    for (row, token), node in slots.items():
        residual = residuals_at.get((row, token))
        mass = p[node] * layer.shares[place_of[row]] if residual is None else residual
        layer.weights[node + 1] = min(1.0, scale * mass)
        layer.masses[place_of[row]] = max(0.0, layer.masses[place_of[row]] - mass)


def _take_out(slots: Sequence[tuple[int, int]], layer: _Layer) -> dict[tuple[int, int], float]:
    """R(x) of (row, token) slots, which is taken out of R, read together."""
    if not slots:
        return {}
    values = together([layer.residuals[row][token] for row, token in slots])
    for row, token in slots:
        layer.residuals[row][token] = 0.0
    return dict(zip(slots, values, strict=True))
