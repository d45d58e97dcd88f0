"""Rules for the controls: each has one published mistake, so none of them is lossless."""

from __future__ import annotations

from itertools import pairwise, product
from math import exp, inf, log
from typing import ClassVar

import torch

from draftgraph.types import ROOT, Outcome, TokenTree
from draftgraph.verification.base import EVERY_LAW, EVERY_STRUCTURE, Accepts, Rule
from draftgraph.verification.block import BlockRule
from draftgraph.verification.chain import law_of, ratio
from draftgraph.verification.layer import LayerRule
from draftgraph.verification.published.token import TokenRule


class UnwarpedBonus(LayerRule):
    """The layer rule at temperature 0.5, but below a leaf the bonus token is drawn at temperature 1."""

    name: ClassVar[str] = "layer, un-warped bonus"
    lossless: ClassVar[bool] = False

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        honest = super().outcome(tree, p)
        # p at T = 0.5 is proportional to the square of p at T = 1
        return Outcome(honest.stop, lambda row: honest.bonus(row) if tree.children[row] else p[row].sqrt())


class SameUniform(TokenRule):
    """Token verification whose acceptance tests all read one number u: position i passes if u <= a_i."""

    name: ClassVar[str] = "token, one uniform"
    lossless: ClassVar[bool] = False

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        # P(u <= a_1, ..., u <= a_i) = min(a_1, ..., a_i); it should be their product
        passed = [1.0]
        for accept in _acceptances(tree, p):
            passed.append(min(passed[-1], accept))
        stop = [above - below for above, below in pairwise(passed)] + [passed[-1]]
        return Outcome(stop, super().outcome(tree, p).bonus)


class UncappedBlock(BlockRule):
    """Block verification that accepts the last position with min(1, P/Q) of the whole chain; b_g is capped at every step."""

    name: ClassVar[str] = "block, last position un-capped"
    source: ClassVar[str] = "HSD, arXiv 2601.05724, released code"
    lossless: ClassVar[bool] = False

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        honest = super().outcome(tree, p)
        whole, capped = 1.0, 1.0
        for node, token in enumerate(tree.tokens):
            step = ratio(float(p[node, token]), float(law_of(tree, node, p[node])[token]))
            whole, capped = whole * step, min(1.0, capped * step)
        # the positions before the last share what the last one leaves, as they shared 1 - b_g
        left = (1.0 - min(1.0, whole)) / (1.0 - capped) if capped < 1.0 else 0.0
        stop = [left * mass for mass in honest.stop[:-1]]
        return Outcome([*stop, 1.0 - sum(stop)], honest.bonus)


class ProductBlock(TokenRule):
    """Position i passes if u_1 ... u_i <= a_1 ... a_i; the last one that passes wins, and the residual is not scaled.

    a_i = min(1, p/q). With thresholds L_i = -log(a_1 ... a_i) the numbers -log(u_1 ... u_i) are the arrival times of a
    Poisson process of rate 1, and position i passes unless i of them arrive before L_i.
    """

    name: ClassVar[str] = "block, products"
    source: ClassVar[str] = "vllm-ascend, first version of block verification (issue 7807)"
    lossless: ClassVar[bool] = False

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        n = len(tree)
        chances = {(0, 0): 1.0}  # (arrivals so far, at most n; the last position that passed) -> probability
        for i, accept in enumerate(_acceptances(tree, p), 1):
            span = -log(accept) if accept > 0.0 else inf  # L_i - L_{i-1}
            after: dict[tuple[int, int], float] = {}
            for (arrived, last), chance in chances.items():
                for more, weight in enumerate(_arrivals(span, n - arrived)):
                    state = (arrived + more, i if arrived + more < i else last)
                    after[state] = after.get(state, 0.0) + chance * weight
            chances = after
        stop = [sum(chance for (_, last), chance in chances.items() if last == i) for i in range(n + 1)]
        return Outcome(stop, super().outcome(tree, p).bonus)


def _acceptances(tree: TokenTree, p: torch.Tensor) -> list[float]:
    """min(1, p/q) at every position of a chain."""
    laws = [law_of(tree, node, p[node]) for node in range(len(tree))]
    return [min(1.0, ratio(float(p[node, token]), float(laws[node][token]))) for node, token in enumerate(tree.tokens)]


def _arrivals(span: float, most: int) -> list[float]:
    """The law of the number of Poisson arrivals within `span`: 0, 1, ..., and `most` or more."""
    weights: list[float] = []
    weight = exp(-span)
    for k in range(most):
        weights.append(weight)
        weight = weight * span / (k + 1) if weight > 0.0 else 0.0
    return [*weights, 1.0 - sum(weights)]


class IndependentTests(Rule):
    """Every node is tested alone with min(1, p/q), the longest surviving path wins, the bonus token comes from p."""

    name: ClassVar[str] = "independent tests"
    source: ClassVar[str] = "GSD reference code, stochastic branch"
    lossless: ClassVar[bool] = False
    accepts: ClassVar[Accepts] = Accepts(frozenset({"fixed", "sampled"}), EVERY_STRUCTURE)

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        stop = [0.0] * (len(tree) + 1)
        chance = []
        for node, token in enumerate(tree.tokens):
            row = tree.parents[node] + 1
            chance.append(min(1.0, ratio(float(p[row, token]), float(law_of(tree, node, p[row])[token]))))
        for passes in product((True, False), repeat=len(tree)):
            probability, ends = 1.0, [ROOT]
            for node, passed in enumerate(passes):
                probability *= chance[node] if passed else 1.0 - chance[node]
                if passed and tree.parents[node] in ends:
                    ends.append(node)
            longest = max(ends, key=lambda node: len(tree.path(node)))
            stop[longest + 1] += probability
        return Outcome(stop, lambda row: p[row])


class OwnSamples(Rule):
    """The target walks every root-to-leaf path with samples of its own; the longest walk wins and emits its last sample.

    Each walk alone has the target's law. Paths that share a prefix sample it anew, and keep the sample that suits them.
    """

    name: ClassVar[str] = "own samples"
    source: ClassVar[str] = "ADED, arXiv 2407.12021, and REST, arXiv 2311.08252, sampled decoding"
    lossless: ClassVar[bool] = False
    accepts: ClassVar[Accepts] = Accepts(EVERY_LAW, EVERY_STRUCTURE)

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        leaves = [node for node in range(-1, len(tree)) if not tree.children[node + 1]]
        emitted = torch.zeros_like(p)  # mass of every (end of the path, bonus token)
        for walks in product(*(self._walk(tree, p, leaf) for leaf in leaves)):
            probability, longest = 1.0, walks[0]
            for chance, length, row, bonus in walks:
                probability *= chance
                if length > longest[1]:
                    longest = (chance, length, row, bonus)
            emitted[longest[2]] += probability * longest[3]
        return Outcome(emitted.sum(1).tolist(), lambda row: emitted[row])

    @staticmethod
    def _walk(tree: TokenTree, p: torch.Tensor, leaf: int) -> list[tuple[float, int, int, torch.Tensor]]:
        """Where the walk along one path ends: (probability, accepted tokens, row, law of the last sample)."""
        ends, reach, row = [], 1.0, 0
        for length, node in enumerate(tree.path(leaf)):
            match = float(p[row, tree.tokens[node]])
            bonus = p[row].clone()
            bonus[tree.tokens[node]] = 0.0
            if match < 1.0:
                ends.append((reach * (1.0 - match), length, row, bonus / bonus.sum()))
            reach, row = reach * match, node + 1
        return [*ends, (reach, len(tree.path(leaf)), row, p[row])]
