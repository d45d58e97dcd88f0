"""Rules that decide node by node: how likely they keep the token that the text has, one position at a time.

For such a rule the mass A(y) that a node's children hand down with token y depends on that node's rows only. A text x ~ P then
survives the step with probability a(x) = A(x) / p(x), whatever came before: x_1..x_i is drafted and accepted with probability
Π A_j(x_j) = P(x) Π a_j(x_j). Σ_y A(y) is the mean of a over the next token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from draftgraph.draft.structures.children import NO_MASS


class Chance(NamedTuple):
    """given  f64[n], a(x) for the token x that the text has. expected  f64[n], Σ_y A(y), its mean over that token."""

    given: torch.Tensor
    expected: torch.Tensor


Chances = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int, torch.Generator], Chance]
"""chances(p f64[n, V], q f64[n, V], tokens i64[n], children, generator) -> Chance."""


def fixed(p: torch.Tensor, q: torch.Tensor, x: torch.Tensor, k: int, generator: torch.Generator) -> Chance:
    """The k best tokens of q, walked by the target: A = p at those tokens."""
    return _of(torch.where(_best(q, k), p, 0.0), p, x)


def hybrid(p: torch.Tensor, q: torch.Tensor, x: torch.Tensor, k: int, generator: torch.Generator) -> Chance:
    """k − 1 FIXED tokens and one drawn from λ, the rest of q, which is verified first: A = min(p, λ), and p at the FIXED tokens.

    It is the layer rule at depth 1; deeper down, that rule also lets a node use what its cousins leave over. k = 1 is token
    verification of a chain (Leviathan et al., 2211.17192, corollary 3.6).
    """
    best, law = _hybrid(q, k)
    return _of(torch.where(best, p, torch.minimum(p, law)), p, x)


def spine(p: torch.Tensor, q: torch.Tensor, x: torch.Tensor, k: int, generator: torch.Generator) -> Chance:
    """One draw from the whole of q, then the k − 1 best tokens FIXED: A = min(p, q), and p at the latter."""
    return _of(torch.where(_best(q, k - 1), p, torch.minimum(p, q)), p, x)


def with_replacement(p: torch.Tensor, q: torch.Tensor, x: torch.Tensor, k: int, generator: torch.Generator) -> Chance:
    """k draws from q, recursive rejection (SpecInfer, 2305.09781, algorithm 2; MCSD, 2401.06706).

    Child j hands down min(R_j, m_j q), with R_1 = p, R_{j+1} = (R_j − m_j q)₊ and m_j = |R_j|.
    """
    residual, accepted = p.clone(), torch.zeros_like(p)
    for _ in range(k):
        step = torch.minimum(residual, residual.sum(dim=1, keepdim=True) * q)
        accepted += step
        residual -= step
    return _of(accepted, p, x)


def without_replacement(
    p: torch.Tensor, q: torch.Tensor, x: torch.Tensor, k: int, generator: torch.Generator
) -> Chance:
    """k draws from q without replacement, recursive rejection (RSD, 2402.14160; Sequoia, 2402.12374).

    q_{j+1} depends on which token was rejected, so one sequence of rejected tokens is drawn per position, from its own law
    (q_j − R_j / m_j)₊. That leaves A unbiased, and products over different positions too, because the draws are independent.
    """
    residual, accepted, law = p.clone(), torch.zeros_like(p), q.clone()
    for _ in range(k):
        mass = residual.sum(dim=1, keepdim=True)
        step = torch.minimum(residual, mass * law)
        accepted += step
        residual -= step
        rejected = (mass * law - step).clamp_min_(0.0)
        over = rejected.sum(dim=1) <= 0.0  # accepted for certain: there is no next child to think of
        rejected[over] = 1.0
        law.scatter_(1, torch.multinomial(rejected, 1, generator=generator), 0.0)
        law[over] = 0.0
        law /= law.sum(dim=1, keepdim=True).clamp_min(1e-300)
    return _of(accepted, p, x)


def agree(p: torch.Tensor, q: torch.Tensor, x: torch.Tensor, k: int, generator: torch.Generator) -> Chance:
    """Both take argmax(law / e) with the position's own noise e: A(x) = 1 / Σ_y max(p_y / p_x, q_y / q_x).

    (The two Gumbel-coupled draws agree on x when e_x is the least of independent exponentials with these rates.)
    Sorted by s = p / q, Σ_y max(p_y, s_x q_y) is a sum of p above x and of s_x q below.
    """
    slack = torch.where(q > 0, p / q.clamp_min(1e-300), torch.inf)
    order = slack.argsort(dim=1, descending=True)
    above, below = p.gather(1, order).cumsum(1), q.gather(1, order).flip(1).cumsum(1).flip(1)
    below = torch.cat((below[:, 1:], torch.zeros_like(below[:, :1])), dim=1)
    s = slack.gather(1, order)
    bound = above + torch.where(below > 0, s * below, 0.0)
    accepted = torch.zeros_like(p).scatter_(1, order, torch.where(s < torch.inf, p.gather(1, order) / bound, 0.0))
    return _of(accepted, p, x)


def _of(accepted: torch.Tensor, p: torch.Tensor, x: torch.Tensor) -> Chance:
    """Natural text may have tokens that the target rules out; nothing is known about them, and they count as rejected."""
    mass, own = accepted.gather(1, x[:, None])[:, 0], p.gather(1, x[:, None])[:, 0]
    return Chance(torch.where(own > 0, mass / own.clamp_min(1e-300), 0.0), accepted.sum(dim=1))


def _best(q: torch.Tensor, k: int) -> torch.Tensor:
    """bool[n, V], the k best tokens of every row that have any probability."""
    probs, tokens = q.topk(min(k, q.shape[1]), dim=1)
    return torch.zeros_like(q, dtype=torch.bool).scatter_(1, tokens, probs > 0)


def _hybrid(q: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The FIXED tokens bool[n, V] and the SAMPLED law f64[n, V] of `grow_branching`: fewer FIXED where nothing would be left."""
    probs, tokens = q.topk(min(k, q.shape[1]), dim=1)
    rest = 1.0 - probs[:, :-1].cumsum(dim=1)
    room = ((rest >= NO_MASS) & (probs[:, 1:] > 0)).cumprod(dim=1).bool()
    best = torch.zeros_like(q, dtype=torch.bool).scatter_(1, tokens[:, :-1], room)
    law = q.masked_fill(best, 0.0)
    return best, law / law.sum(dim=1, keepdim=True)
