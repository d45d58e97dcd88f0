"""Which drafted pairs (beam, token) a layer of beam sampling keeps: DSBD, arXiv 2409.16560.

Beam sampling draws every beam of a layer from the target's joint law P over pairs, all of them independently. The drafter has
drawn pairs independently from a joint law Q of its own, and they are tested one after the other:

    R_0 = P;   R_(j+1) = (R_j − Q)_+, normalised            after j + 1 failures in a row
    a drafted pair x is kept with probability min(1, R_j[x] / Q[x])

A pair that was kept is a draw from P, whatever failed before it. So the next beam begins with R_0 again. A pair below a beam
that is not alive has P = 0: it fails, and counts as a failure. Where the drafted pairs do not suffice, the next beam is drawn
from R_j, and the others from P. So the kept pairs are independent draws from P, however many are asked for, as long as that
number was decided without looking at the drafted pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

NOWHERE = -1
"""A drafted pair below a beam that is not alive."""


class Chance(Protocol):
    """The random decisions of one round. Every one is made once."""

    def drafted(self, law: torch.Tensor, depth: int, slot: int) -> int:
        """A draw from f[n] for a slot of a drafted layer; layers have depths from 1 on."""
        ...

    def passes(self, probability: float, depth: int, slot: int) -> bool:
        """Whether a slot passes its test."""
        ...

    def fresh(self, law: torch.Tensor) -> int:
        """A draw from f[n] that belongs to no slot."""
        ...


class LayerTest:
    """The tests of one layer.

    p  f64[n], the target's joint law over pairs; sums to one.
    q  f64[n], what the drafter's joint law gives them; the rest of its mass lies below beams that are not alive.
    """

    def __init__(self, p: torch.Tensor, q: torch.Tensor) -> None:
        self.p, self.q = p, q
        self._residuals = [p]

    def residual(self, failures: int) -> torch.Tensor:
        """R_j, f64[n], after j failures in a row."""
        while len(self._residuals) <= failures:
            left = (self._residuals[-1] - self.q).clamp_min_(0.0)
            mass = float(left.sum())
            # Where R = Q up to rounding nothing is left: the test about never fails there, and then R stays.
            self._residuals.append(left / mass if mass > 0.0 else self._residuals[-1])
        return self._residuals[failures]

    def chance(self, pair: int, failures: int) -> float:
        """min(1, R_j[x] / Q[x]): how likely a drafted pair is kept after j failures in a row."""
        if pair == NOWHERE:
            return 0.0
        return min(1.0, float(self.residual(failures)[pair]) / float(self.q[pair]))

    def acceptances(self, drafted: int, most: int) -> list[float]:
        """The law of how many of `drafted` pairs are kept, `most` at most, before they are drawn: most + 1 probabilities.

        After j failures a pair is kept with probability Σ_x Q[x] min(1, R_j[x] / Q[x]) = Σ_x min(Q[x], R_j[x]).
        """
        reached = {(0, 0): 1.0}  # by pairs that were kept, and failures in a row
        for _ in range(drafted):
            further: dict[tuple[int, int], float] = {}
            for (kept, failures), mass in reached.items():
                if kept == most:
                    further[most, 0] = further.get((most, 0), 0.0) + mass
                    continue
                passing = min(1.0, float(torch.minimum(self.q, self.residual(failures)).sum()))
                for state, part in (((kept + 1, 0), passing), ((kept, failures + 1), 1.0 - passing)):
                    further[state] = further.get(state, 0.0) + mass * part
            reached = further
        law = [0.0] * (most + 1)
        for (kept, _), mass in reached.items():
            law[kept] += mass
        return law


def keep(
    test: LayerTest, drafted: Sequence[int], width: int, chance: Chance, depth: int
) -> tuple[list[int], list[bool]]:
    """`width` pairs drawn from P, those among the `drafted` ones that pass first; and which of the tested ones passed."""
    kept: list[int] = []
    passed: list[bool] = []
    failures = 0
    for slot, pair in enumerate(drafted):
        if len(kept) == width:
            break
        passed.append(chance.passes(test.chance(pair, failures), depth, slot))
        if passed[-1]:
            kept.append(pair)
        failures = 0 if passed[-1] else failures + 1
    while len(kept) < width:
        kept.append(chance.fresh(test.residual(failures)))
        failures = 0
    return kept, passed


def reached(acceptances: Sequence[float], threshold: float) -> int:
    """The largest number that is reached with probability `threshold` at least; acceptances  the law of a number."""
    above = 0.0
    for number in range(len(acceptances) - 1, 0, -1):
        above += acceptances[number]
        if above >= threshold:
            return number
    return 0


def expected(acceptances: Sequence[float]) -> int:
    """The mean of a number, rounded down; acceptances  its law."""
    return int(sum(number * mass for number, mass in enumerate(acceptances)) + 1e-9)
