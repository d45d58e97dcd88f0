"""What a slot is worth, estimated from q alone and from earlier rounds: the tables of the level policy.

Four things are learnt per request, at positions where the target's row is known once a round is verified:

* cal, how much of the drafter's probability of a FIXED token the target confirms, apart for its best token and others;
* B(h, s) = Σ_x min(s q'(x), p'(x)), the share of a node's remaining mass that one SAMPLED child keeps when the layer has
  slack s; q' and p' are the laws without the FIXED siblings, renormalised, and h is the largest entry of q'. Measured on
  three pairs, B depends on how many siblings were removed only through h, rises with s towards 1 and is described by two
  numbers per bin of h: B = 1 − (1 − β) s^−γ;
* the draft temperature: SAMPLED slots are drawn from q^(1/τ), with the τ that has overlapped most with the target;
* the sharpness of rows at temperature 0. A drafter that is half sure of its best token is right more often than every second
  time there, because the target's choice is its best token, too. Rows are q^s, normalised, and s rises as long as best tokens
  are chosen more often than their rows say (temperature scaling: Guo et al. 2017).

Only earlier rounds may be used: a draft whose shape looked at this round's p would be biased.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import torch

MAX_FIXED = 4
"""FIXED siblings at most beside the SAMPLED child of a node."""
HEADS = (0.4, 0.75, 1.01)
"""Upper ends of the bins of h."""
BETA = (0.5, 0.58, 0.85)
GAMMA = (1.0, 0.8, 0.6)
SLACK = 4.0
"""The second slack at which B is measured, to learn its slope γ."""
MASSES = (0.02, 0.1, 0.4, 0.8, 1.01)
"""Upper ends of the bins of q for cal."""
TEMPERATURES = (1.0, 0.9, 0.8)
"""Draft temperatures tried, relative to the target's; sharper ones help drafters that are flatter than their target."""
TYPICAL_SLACK = 2.0
FIRST_SHARPNESS, FLATTEST, SHARPEST = 1.5, 0.5, 4.0
"""The sharpness of rows before anything was seen, and its bounds."""
FIRST_STEP, LEAST_STEP, STEPS = 0.2, 0.03, 10.0
"""How far one position moves the sharpness: the first ones far, later ones little; half as far after so many positions."""
PRIOR_ROUNDS, MEMORY = 8.0, 64.0
"""Weight of the prior, and how many rounds a running mean remembers."""
ALWAYS, EVERY = 4, 6
"""Learn from the first rounds always, then from every sixth: it takes about as long as a small drafter's pass."""
LEAST_LEFT = 1e-3
"""Mass outside the best tokens below which B says nothing."""
_POWERS = torch.tensor([[1.0 / t] for t in TEMPERATURES])


class Calibration:
    """Running means over the rounds of one request."""

    def __init__(self) -> None:
        self.beta = list(BETA)
        self.gamma = list(GAMMA)
        self._wide = [1.0 - (1.0 - b) * SLACK**-g for b, g in zip(BETA, GAMMA, strict=True)]
        self._weight = [PRIOR_ROUNDS] * len(HEADS)
        self._promised = [
            [PRIOR_ROUNDS * bound for bound in MASSES] for _ in range(2)
        ]  # Σ q(x), of best tokens and others
        self._confirmed = [list(row) for row in self._promised]  # Σ p(x); the prior says that they agree
        self.sharpness, self._positions = FIRST_SHARPNESS, 0
        self._overlap = [0.0, -0.01 * PRIOR_ROUNDS, -0.02 * PRIOR_ROUNDS]
        self._seen = 0

    def kept(self, head: float, slack: float) -> float:
        """B(h, s) for slack s > 0."""
        b = _bin(HEADS, head)
        if slack <= 1.0:
            return self.beta[b] * slack
        return 1.0 - (1.0 - self.beta[b]) * math.exp(-self.gamma[b] * math.log(slack))

    def mass(self, q: float, rank: int) -> float:
        """Expected target probability of a FIXED token to which the drafter gives q; rank 0 is its best token."""
        b, other = _bin(MASSES, q), min(rank, 1)
        return min(1.0, q * self._confirmed[other][b] / self._promised[other][b])

    def expected(self, row: Sequence[float]) -> list[float]:
        """`mass` of the best tokens of a row, best first; kept non-increasing."""
        masses: list[float] = []
        for rank, q in enumerate(row):
            mass = self.mass(q, rank)
            masses.append(min(mass, masses[-1]) if masses else mass)
        return masses

    @property
    def temperature(self) -> float:
        """τ for the next draft."""
        return TEMPERATURES[self._overlap.index(max(self._overlap))]

    @property
    def due(self) -> bool:
        """Whether anything is learnt from the next position; if not, tell `pass_over` of it."""
        return self._seen < ALWAYS or (self._seen + 1) % EVERY == 0

    def pass_over(self) -> None:
        self._seen += 1

    def observe(self, q: torch.Tensor, p: torch.Tensor) -> None:
        """Learn from a verified position, if it is due: q (before sharpening) and p are f[V] laws at the same prefix."""
        due = self.due
        self.pass_over()
        if not due:
            return
        best = q.topk(min(MAX_FIXED, len(q)))
        q_top, p_top = best.values.tolist(), p[best.indices].tolist()
        self.observe_fixed(q_top, p_top)
        self._observe_sampled(q, p, q_top, p_top)
        self._observe_temperatures(q, p)

    def observe_fixed(self, promised: Sequence[float], confirmed: Sequence[float]) -> None:
        """Learn cal: what the drafter gave its best tokens, best first, and what the target gives them."""
        for rank, (q, p) in enumerate(zip(promised, confirmed, strict=True)):
            b, other = _bin(MASSES, q), min(rank, 1)
            self._promised[other][b] += q
            self._confirmed[other][b] += p

    def observe_best(self, promised: float, chosen: float) -> None:
        """Learn the sharpness: what a sharpened row gave its best token, and whether the target chose it (1 or 0)."""
        step = max(LEAST_STEP, FIRST_STEP / (1.0 + self._positions / STEPS))
        self._positions += 1
        self.sharpness = min(SHARPEST, max(FLATTEST, self.sharpness * math.exp(step * (chosen - promised))))

    def _observe_sampled(
        self, q: torch.Tensor, p: torch.Tensor, q_top: Sequence[float], p_top: Sequence[float]
    ) -> None:
        """B without the k best tokens of q, for every k; q_top, p_top  what the laws give them.

        With a and b the masses of q and p that are left, min(s q / a, p / b) = (s / a) min(q, (a / s b) p).
        """
        left = [
            (1.0 - sum(q_top[:k]), 1.0 - sum(p_top[:k]))
            for k in range(len(q_top))
            if 1.0 - max(sum(q_top[:k]), sum(p_top[:k])) > LEAST_LEFT
        ]
        scales = [scale for a, b in left for scale in (a / b, a / (SLACK * b))]
        common = torch.minimum(q, torch.tensor(scales, dtype=q.dtype, device=q.device)[:, None] * p).sum(dim=1).tolist()
        for i, scale in enumerate(scales):
            common[i] -= sum(min(x, scale * y) for x, y in zip(q_top[: i // 2], p_top[: i // 2], strict=True))
        for k, (a, _) in enumerate(left):
            self._move(_bin(HEADS, q_top[k] / a), common[2 * k] / a, SLACK * common[2 * k + 1] / a)

    def _move(self, b: int, narrow: float, wide: float) -> None:
        self._weight[b] = min(MEMORY, self._weight[b] + 1.0)
        self.beta[b] += (narrow - self.beta[b]) / self._weight[b]
        self._wide[b] += (wide - self._wide[b]) / self._weight[b]
        lost = max(1e-3, 1.0 - self._wide[b]) / max(1e-3, 1.0 - self.beta[b])
        self.gamma[b] = min(2.5, max(0.05, -math.log(min(1.0, lost)) / math.log(SLACK)))

    def _observe_temperatures(self, q: torch.Tensor, p: torch.Tensor) -> None:
        sharp = sharpen(q[None], _POWERS.to(q.device))
        overlaps = torch.minimum(TYPICAL_SLACK * sharp, p).sum(dim=1).tolist()
        self._overlap = [0.98 * old + overlap for old, overlap in zip(self._overlap, overlaps, strict=True)]


def sharpen(laws: torch.Tensor, power: float | torch.Tensor) -> torch.Tensor:
    """laws f[n, V] raised to a power and normalised: their sampling temperature divided by `power`."""
    sharp = laws.pow(power)
    return sharp / sharp.sum(dim=1, keepdim=True)


def _bin(bounds: tuple[float, ...], value: float) -> int:
    return min(bisect_left(bounds, value), len(bounds) - 1)
