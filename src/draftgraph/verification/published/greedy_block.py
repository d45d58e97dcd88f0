"""Greedy block verification: the variant in the appendix of Block Verification (arXiv 2403.10444) that re-targets.

It accepts as much of one block as any coupling can, E[accepted] = sum_i sum_x min(P(x^i), Q(x^i)), by spending target mass
that later positions would need: after a verdict that ends at position i of g the text so far is *too likely* by some
factor, and the next g - i - 1 positions must be drawn from another law than the target's to make up for it. With the
target's own law there the text is biased. Hence `lossless = False`, which speaks of the standard loop (every round starts
from the plain target); `continuation` is the other half, and with it the text has exactly the target's law.

    rule.continuation(tree, p, end, token) -> Continuation    # state after the verdict: entry `end`, bonus token `token`
    state.left                                                # how many of the next positions are re-targeted
    state.law(p, q) -> f[V]                                   # their law, from the target's and drafter's rows there
    state.after(token, p, q) -> Continuation                  # one position further

Not a default: the re-targeted positions are harder to draft, and the paper measures fewer tokens over many rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import Accepts, Rule
from draftgraph.verification.chain import law_of
from draftgraph.verification.residual import mass


@dataclass(frozen=True)
class Continuation:
    """What the next positions must be drawn from, so that the text of the block has the target's law.

    left  positions, from here on, that are re-targeted; 0: the plain target from here on.
    odds  P(z) / Q(z) of the text z since the block began; infinite if the drafter would never draft z.
    """

    left: int
    odds: float

    def law(self, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """(P(zx) - Q(zx))_+ over x as f[V], up to a factor.

        p, q  f[V], the target's law after z and the law that the drafter would draw its next token from.
        """
        return excess(self.odds, p, q) if self.left else p

    def after(self, token: int, p: torch.Tensor, q: torch.Tensor) -> Continuation:
        """The state once `token` has been emitted; p, q as in `law`."""
        return Continuation(max(0, self.left - 1), _times(self.odds, p, q, token))


class GreedyBlockRule(Rule):
    name: ClassVar[str] = "greedy_block"
    source: ClassVar[str] = "Block Verification, arXiv 2403.10444, appendix: greedy block verification"
    lossless: ClassVar[bool] = False
    accepts: ClassVar[Accepts] = Accepts(frozenset({"fixed", "sampled"}), frozenset({"chain"}))
    continues: ClassVar[bool] = True

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        self.check(tree)
        odds = _odds(tree, p)
        stop = [0.0] * len(odds)
        carry = 1.0  # probability that every later position failed
        for i in range(len(odds) - 1, -1, -1):
            if odds[i] >= 1.0:
                keep = 1.0
            elif i == len(tree):
                keep = odds[i]
            else:
                left = mass(excess(odds[i], p[i], law_of(tree, i, p[i])))
                keep = left / (left + (1.0 - odds[i]))
            stop[i] = carry * keep
            carry *= 1.0 - keep

        def bonus(row: int) -> torch.Tensor:
            residual = p[row] if row == len(tree) else excess(odds[row], p[row], law_of(tree, row, p[row]))
            return residual if bool(residual.any()) else p[row]

        return Outcome(stop, bonus)

    def continuation(self, tree: TokenTree, p: torch.Tensor, end: int, token: int) -> Continuation:
        """The law of the positions after a verdict.

        tree, p  as in `outcome`.
        end      the entry of `stop` at which the path ended.
        token    the bonus token, one that `bonus(end)` can draw.
        """
        if end == len(tree):
            return Continuation(0, math.inf)
        state = Continuation(len(tree) - end, _odds(tree, p)[end])
        return state.after(token, p[end], law_of(tree, end, p[end]))


def _odds(tree: TokenTree, p: torch.Tensor) -> list[float]:
    """R_i = P(X^i) / Q(X^i) of every entry of a chain; not clipped, unlike block verification's."""
    odds = [1.0]
    for node, token in enumerate(tree.tokens):
        law = law_of(tree, node, p[node])
        odds.append(_times(odds[node], p[node], law, token) if law[token] > 0.0 else 0.0)
    return odds


def _times(odds: float, p: torch.Tensor, q: torch.Tensor, token: int) -> float:
    """odds p[x] / q[x]; zero where p is, infinite where only q is."""
    above, below = odds * float(p[token]) if p[token] > 0.0 else 0.0, float(q[token])
    return above / below if below > 0.0 else math.inf if above > 0.0 else 0.0


def excess(odds: float, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """(R p - q)_+ for R < 1, and (p - q / R)_+ for R >= 1, which is the same up to a factor and stays finite; f[V]."""
    return (odds * p - q if odds < 1.0 else p - q / odds).clamp_min(0.0)
