"""What a slot is worth, estimated from q alone and from earlier rounds: the tables of the level policy.

Two quantities are learnt per request, at the root of every round, where the target's row is known afterwards:

* cal, how much of the drafter's probability of a FIXED token the target confirms;
* B(k, s) = Σ_x min(s q'(x), p'(x)), the share of a node's mass that one SAMPLED child keeps when its k best tokens are
  FIXED siblings and the layer has slack s (q', p' without those k tokens, renormalised). It rises with s towards 1 and
  is described by two numbers: B = 1 − (1 − β_k) s^−γ_k.

Only earlier rounds may be used: a draft whose shape looked at this round's p would be biased.
"""

from __future__ import annotations

import math

import torch

MAX_FIXED = 4
"""FIXED siblings at most beside the SAMPLED child of a node."""
SLACK = 4.0
"""The second slack at which B is measured, to learn its slope γ."""
_BETA = (0.68, 0.56, 0.5, 0.46, 0.42)
_GAMMA = (0.9, 0.75, 0.7, 0.65, 0.6)
_MEMORY = 32.0
"""Rounds that a running mean remembers; the prior counts as 8."""
_EVERY_AFTER = 64
_EVERY = 8
"""After the first rounds, learning from every eighth round is enough."""
_BINS = (0.02, 0.1, 0.4, 0.8, 1.01)
"""Upper ends of the bins of q for cal."""


class Calibration:
    """Running means of β, γ and cal over the rounds of one request."""

    def __init__(self) -> None:
        self.beta = list(_BETA)
        self.wide = [1.0 - (1.0 - b) * SLACK**-g for b, g in zip(_BETA, _GAMMA, strict=True)]
        self.gamma = list(_GAMMA)
        self._confirmed = [8.0 * width for width in _BINS]  # Σ p(x) and Σ q(x) per bin; the prior says they agree
        self._promised = [8.0 * width for width in _BINS]
        self._rounds = 8.0
        self._seen = 0

    def kept(self, fixed: int, slack: float) -> float:
        """B(k, s), at least the floor that s < 1 implies."""
        if slack <= 1.0:
            return self.beta[fixed] * slack
        return 1.0 - (1.0 - self.beta[fixed]) * math.exp(-self.gamma[fixed] * math.log(slack))

    def mass(self, q: float) -> float:
        """Expected target probability of a FIXED token to which the drafter gives q."""
        b = _bin(q)
        return min(1.0, q * self._confirmed[b] / self._promised[b])

    def observe(self, q: torch.Tensor, p: torch.Tensor) -> None:
        """Learn from a verified position: q and p are f[V] laws at the same prefix."""
        self._seen += 1
        if self._seen > _EVERY_AFTER and self._seen % _EVERY:
            return
        top = q.topk(min(MAX_FIXED, len(q))).indices
        pairs = torch.stack((q[top], p[top])).tolist()
        without = torch.stack((q, p)).repeat(MAX_FIXED + 1, 1, 1)  # f[k, 2, V]: k best tokens removed
        for k in range(1, len(top) + 1):
            without[k:, :, top[k - 1]] = 0.0
        rest = without.sum(dim=2, keepdim=True)
        without = without / rest.clamp_min(1e-9)
        overlap = torch.minimum(without[:, 0] * torch.tensor([[[1.0]], [[SLACK]]]).to(q), without[:, 1]).sum(dim=2).tolist()
        rate = 1.0 / min(_MEMORY, self._rounds + 1.0)
        self._rounds += 1.0
        solid = (rest[:, :, 0].amin(dim=1) > 1e-3).tolist()
        for k in range(MAX_FIXED + 1):
            if solid[k]:
                self._move(k, overlap[0][k], overlap[1][k], rate)
        for q_token, p_token in zip(*pairs, strict=True):
            b = _bin(q_token)
            self._promised[b] += q_token
            self._confirmed[b] += p_token

    def _move(self, k: int, narrow: float, wide: float, rate: float) -> None:
        self.beta[k] += rate * (min(0.995, narrow) - self.beta[k])
        self.wide[k] += rate * (min(0.999, wide) - self.wide[k])
        lost = max(1e-3, 1.0 - self.wide[k]) / max(1e-3, 1.0 - self.beta[k])
        self.gamma[k] = min(2.5, max(0.05, -math.log(min(1.0, lost)) / math.log(SLACK)))


def _bin(q: float) -> int:
    return next(i for i, bound in enumerate(_BINS) if q <= bound)
