"""Two ways, one law? A permutation test over everything that is looked at, with exact error rates for any sample size.

If both ways have one law behind every prompt, then which answer came from which way is a coin's choice. So the labels are
permuted within prompts, every statistic is computed again, and the largest of the standardised statistics is compared with
its own law (Westfall and Young's max-T): views and prompts may depend on one another, and no correction is lost on that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from draftgraph.lab.audit.power import POWER
from draftgraph.lab.remote.answers import Answer
from draftgraph.lab.remote.views import Codes, View, cells

PERMUTATIONS = 1999
CHUNK = 250
"""Permutations that are looked at in one go."""
REPLICATES = 400
"""Planted mistakes per size, when power is measured."""
HALVINGS = 9
"""Of the interval in which the smallest size is looked for."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """One view, over all prompts.

    cells          of all prompts together. p_value  corrected for everything that was looked at.
    tv             total variation between the two laws in the mean over prompts, as the cells show it: corrected for what chance
                   adds. interval  95 %, by bootstrap.
    detectable_tv  the smallest that would have been found with probability 0.9, whatever its direction, in every prompt;
                   None where none would, or where nobody measured it.
    """

    name: str
    position: int
    cells: int
    p_value: float
    tv: float
    interval: tuple[float, float]
    detectable_tv: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A test of two ways. p_value  of everything together; below alpha it refutes.

    answers  of both ways. prompts  p-values of each prompt alone, corrected as the views are.
    """

    views: tuple[Compared, ...]
    prompts: tuple[float, ...]
    p_value: float
    alpha: float
    answers: tuple[int, int] = (0, 0)

    @property
    def refuted(self) -> bool:
        return self.p_value <= self.alpha

    def seen_at(self, position: int) -> float | None:
        """The smallest bias of the token at a position that would have been found with probability 0.9."""
        return next((view.detectable_tv for view in self.views if view.position == position), None)


@dataclass
class _Prompt:
    """Answers of both ways, the first `first` of them of the first way, and the cell of each in every view."""

    first: int
    codes: list[Codes]
    sizes: list[int]
    counts: list[Floats] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [
            np.bincount(codes, minlength=size).astype(float) for codes, size in zip(self.codes, self.sizes, strict=True)
        ]

    @property
    def total(self) -> int:
        return len(self.codes[0])

    def chi_squared(self, view: int, ours: Floats) -> Floats:
        """Pearson's statistic f64[b] of homogeneity, for counts f64[b, cells] of the first way; all cells are occupied."""
        every, n, total = self.counts[view], self.first, self.total
        distance = ours - every * (n / total)
        scaled: Floats = (distance**2 / every).sum(axis=-1) * (total**2 / (n * (total - n)))
        return scaled

    def variation(self, view: int, ours: Floats) -> Floats:
        """Total variation f64[b] between the two ways' counts."""
        theirs = self.counts[view] - ours
        distance: Floats = np.abs(ours / self.first - theirs / (self.total - self.first)).sum(axis=-1) / 2.0
        return distance


def compare(
    pairs: Sequence[tuple[Sequence[Answer], Sequence[Answer]]],
    views: Sequence[View],
    alpha: float,
    rng: np.random.Generator,
    powered: bool = True,
) -> Comparison:
    """Test whether two ways have one law. pairs  per prompt the answers of both; prompts without answers of both are left out.

    powered  whether the smallest difference that can be found is measured as well.
    """
    prompts = [_prompt(ours, theirs, views) for ours, theirs in pairs if ours and theirs]
    told = (sum(p.first for p in prompts), sum(p.total - p.first for p in prompts))
    if not any(size > 1 for prompt in prompts for size in prompt.sizes):
        return Comparison((), (), 1.0, alpha, told)
    statistics, variations = _permuted(prompts, views, rng)
    scale = _Scale.of(statistics)
    standard = scale.standard(statistics)
    largest = standard.max(axis=1)
    p_values = [float((largest >= value).mean()) for value in standard[0]]
    threshold = float(np.quantile(largest, 1.0 - alpha, method="higher"))
    compared = []
    for i, view in enumerate(views):
        by_chance = float(variations[1:, i].mean())
        tv, interval = _bounded(prompts, i, float(variations[0, i]), by_chance, rng)
        seen = _detectable(prompts, i, scale, threshold, rng) if powered and view.position else None
        cells_in_all = sum(prompt.sizes[i] for prompt in prompts)
        compared.append(Compared(view.name, view.position, cells_in_all, p_values[i], tv, interval, seen))
    return Comparison(tuple(compared), tuple(p_values[len(views) :]), min(p_values), alpha, told)


def _prompt(ours: Sequence[Answer], theirs: Sequence[Answer], views: Sequence[View]) -> _Prompt:
    made = [cells([view.value(answer) for answer in (*ours, *theirs)]) for view in views]
    return _Prompt(len(ours), [codes for codes, _ in made], [size for _, size in made])


def _permuted(prompts: Sequence[_Prompt], views: Sequence[View], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Statistics f64[1 + PERMUTATIONS, views + prompts], the true labels' first, and total variations [.., views]."""
    rows = PERMUTATIONS + 1
    statistics = np.zeros((rows, len(views) + len(prompts)))
    variations = np.zeros((rows, len(views)))
    for number, prompt in enumerate(prompts):
        for start, labels in _labels(prompt, rows, rng):
            chunk = slice(start, start + len(labels))
            for i, view in enumerate(views):
                ours = labels @ np.eye(prompt.sizes[i], dtype=np.float32)[prompt.codes[i]]
                chi_squared = prompt.chi_squared(i, ours.astype(float))
                statistics[chunk, i] += chi_squared
                variations[chunk, i] += prompt.variation(i, ours.astype(float)) / len(prompts)
                if view.position:
                    statistics[chunk, len(views) + number] += chi_squared
    return statistics, variations


def _labels(prompt: _Prompt, rows: int, rng: np.random.Generator) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Which answers are the first way's, f32[chunk, answers]: as they are in row 0, then permuted."""
    true = np.zeros(prompt.total, dtype=np.float32)
    true[: prompt.first] = 1.0
    for start in range(0, rows, CHUNK):
        labels = rng.permuted(np.tile(true, (min(CHUNK, rows - start), 1)), axis=1)
        if start == 0:
            labels[0] = true
        yield start, labels


@dataclass(frozen=True)
class _Scale:
    """Mean and deviation of the cube roots of statistics: nearly normal whatever the degrees of freedom (Wilson and Hilferty)."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, statistics: Floats) -> _Scale:
        roots = np.cbrt(statistics)
        deviation = roots.std(axis=0)
        return cls(roots.mean(axis=0), np.where(deviation > 1e-9, deviation, np.inf))

    def standard(self, statistics: Floats) -> Floats:
        scaled: Floats = (np.cbrt(statistics) - self.mean) / self.deviation
        return scaled

    def one(self, i: int, statistics: Floats) -> Floats:
        scaled: Floats = (np.cbrt(statistics) - self.mean[i]) / self.deviation[i]
        return scaled


def _bounded(
    prompts: Sequence[_Prompt], view: int, seen: float, by_chance: float, rng: np.random.Generator
) -> tuple[float, tuple[float, float]]:
    """The total variation, and an interval. What chance adds, adds in squares; a bootstrap adds it a second time."""
    again = np.zeros(REPLICATES)
    for prompt in prompts:
        ours = np.bincount(prompt.codes[view][: prompt.first], minlength=prompt.sizes[view])
        theirs = prompt.counts[view] - ours
        n, m = prompt.first, prompt.total - prompt.first
        drawn = rng.multinomial(n, ours / n, REPLICATES) / n - rng.multinomial(m, theirs / m, REPLICATES) / m
        again += np.abs(drawn).sum(axis=1) / 2.0 / len(prompts)
    spread = np.sqrt(np.maximum(again**2 - 2.0 * by_chance**2, 0.0))
    low, high = np.quantile(spread, [0.025, 0.975])
    tv = float(np.sqrt(max(seen**2 - by_chance**2, 0.0)))
    return tv, (min(float(low), tv), max(float(high), tv))


def _detectable(
    prompts: Sequence[_Prompt], view: int, scale: _Scale, threshold: float, rng: np.random.Generator
) -> float | None:
    """The smallest planted mistake that is found with probability POWER, by trying: None if even the largest is not."""
    pooled = [(prompt, prompt.counts[view] / prompt.total) for prompt in prompts]
    low, high = 0.0, min(_half(law)[1] for _, law in pooled)
    if _found(pooled, view, high, scale, threshold, rng) < POWER:
        return None
    for _ in range(HALVINGS):
        size = (low + high) / 2.0
        low, high = (low, size) if _found(pooled, view, size, scale, threshold, rng) >= POWER else (size, high)
    return float(high)


def _found(
    pooled: Sequence[tuple[_Prompt, Floats]],
    view: int,
    size: float,
    scale: _Scale,
    threshold: float,
    rng: np.random.Generator,
) -> float:
    """How many of REPLICATES planted mistakes of this size are found."""
    statistics = np.zeros(REPLICATES)
    for prompt, law in pooled:
        n, m = prompt.first, prompt.total - prompt.first
        ours = rng.multinomial(n, planted(law, size), REPLICATES)
        theirs = rng.multinomial(m, law, REPLICATES)
        every = np.maximum(ours + theirs, 1e-9)
        distance = (ours - every * (n / (n + m))) ** 2 / every
        statistics += distance.sum(axis=1) * ((n + m) ** 2 / (n * m))
    return float((scale.one(view, statistics) >= threshold).mean())


def planted(law: Floats, size: float) -> Floats:
    """A law f64[cells] at total variation `size` from `law`, in the direction that chi-squared sees worst: between two halves."""
    chosen, mass = _half(law)
    if chosen.all():
        return law
    moved: Floats = np.where(chosen, law * (1.0 - size / mass), law * (1.0 + size / (1.0 - mass)))
    scaled: Floats = moved / moved.sum()
    return scaled


def _half(law: Floats) -> tuple[npt.NDArray[np.bool_], float]:
    """Cells that hold about half of the mass, and how much they hold. A single cell holds all of it."""
    chosen = np.zeros(len(law), dtype=bool)
    mass = 0.0
    for cell in np.argsort(-law):
        if mass + law[cell] <= 0.5 or not chosen.any():
            chosen[cell] = True
            mass += law[cell]
    return chosen, mass
