"""Chi-squared goodness of fit for draws that each have a known law of their own.

The law of a next token depends on its prefix, and samples differ in their prefixes. Counts are then sums of independent
indicators with known means and known covariance, so (O - E)' C^-1 (O - E) is chi-squared. Where all prefixes are one, this
is Pearson's test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from draftgraph.lab.audit.power import tail

LEAST = 20.0
"""Cells are merged until each expects this many counts, and no direction among them varies by less.

Five is the usual number, but the decision is taken far out in the tail: at p = 4e-5 the chi-squared law is 2 to 4 times too
thin with five, and at most 2 times with twenty (measured on Zipf and geometric laws, and on draws with laws of their own).
"""


@dataclass
class Counts:
    """Counts of draws by cell, with what the draws' own laws say about them. Cells are ordered; neighbours may be merged.

    observed, expected  f64[k]; covariance  f64[k, k] of the counts; samples  draws counted.
    """

    observed: torch.Tensor
    expected: torch.Tensor
    covariance: torch.Tensor
    samples: int = 0

    @classmethod
    def empty(cls, cells: int) -> Counts:
        zeros = torch.zeros(cells, dtype=torch.float64)
        return cls(zeros.clone(), zeros.clone(), torch.zeros(cells, cells, dtype=torch.float64))

    @classmethod
    def of_one_law(cls, law: torch.Tensor, tokens: torch.Tensor) -> Counts:
        """Draws i64[n] from one law f64[V]: a cell for every token that is expected often enough, one for the tail."""
        masses, order = law.sort(descending=True, stable=True)
        own = int((masses * len(tokens) >= LEAST).sum())
        cell = torch.full((len(law),), own, dtype=torch.int64)
        cell[order[:own]] = torch.arange(own)
        counts = cls.empty(own + 1)
        shares = torch.cat([masses[:own], masses[own:].sum()[None]])
        counts.add(cell[tokens], shares.expand(len(tokens), -1))
        return counts

    def add(self, cells: torch.Tensor, shares: torch.Tensor) -> None:
        """Count draws: cell i64[n] of each, and its law over the cells, f64[n, k]."""
        means = shares.sum(dim=0)
        self.observed += torch.bincount(cells, minlength=len(self.observed))
        self.expected += means
        self.covariance += torch.diag(means) - shares.T @ shares
        self.samples += len(cells)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.observed + other.observed,
            self.expected + other.expected,
            self.covariance + other.covariance,
            self.samples + other.samples,
        )

    def merged(self) -> Counts:
        """With neighbouring cells merged, the least variable first, until every direction varies by `LEAST`."""
        counts = self
        while len(counts.observed) > 1 and float(torch.linalg.eigvalsh(counts.covariance)[1]) < LEAST:
            counts = counts._without_boundary()
        return counts

    def _without_boundary(self) -> Counts:
        """The cell of least variance joins the neighbour of less variance."""
        variance = self.covariance.diagonal()
        worst, last = int(variance.argmin()), len(variance) - 1
        right = worst == 0 or (worst < last and float(variance[worst + 1]) < float(variance[worst - 1]))
        first = worst if right else worst - 1
        joins = torch.zeros(last, last + 1, dtype=torch.float64)
        joins[[i - (i > first) for i in range(last + 1)], range(last + 1)] = 1.0
        return Counts(joins @ self.observed, joins @ self.expected, joins @ self.covariance @ joins.T, self.samples)

    def chi_squared(self) -> tuple[float, int]:
        """The statistic and its degrees of freedom; call it on merged counts. The last cell follows from the others."""
        distance = (self.observed - self.expected)[:-1]
        if not len(distance):
            return 0.0, 0
        return float(distance @ torch.linalg.solve(self.covariance[:-1, :-1], distance)), len(distance)


@dataclass(frozen=True)
class Fit:
    """One test.

    kind      what was counted: "tokens", "quantiles", "ranks", "drafter" or "support".
    where     which draws: "position 3", "all positions", "round starts".
    samples   draws counted. freedom  degrees of freedom; a test without any has p_value 1 and sees nothing.
    detectable_tv  the total variation, as its cells show it, that it would have seen with probability 0.9 (None: it is blind).
    """

    kind: str
    where: str
    samples: int
    statistic: float
    freedom: int
    p_value: float
    detectable_tv: float | None = field(default=None)


def fitted(kind: str, where: str, groups: Sequence[Counts]) -> Fit:
    """One test over groups of independent counts: their statistics add up. Groups that merge into one cell are left out."""
    samples, statistic, freedom = 0, 0.0, 0
    for group in groups:
        merged = group.merged()
        value, degrees = merged.chi_squared()
        if degrees:
            samples, statistic, freedom = samples + group.samples, statistic + value, freedom + degrees
    return Fit(kind, where, samples, statistic, freedom, tail(statistic, freedom) if freedom else 1.0)
