"""What follows from the cells that `merging.py` measured: paired gains, evaluations saved, passes that a gain is worth."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.merging_cases import CONDITIONS, DEPTHS
from bench.recurrence import passes_worth, saved
from bench.report import mean_and_error

Cell = dict[str, Any]
"""A cell as it stands in the JSON file."""
Condition = tuple[str, str, float]
"""(subject, kind of text, temperature)."""
RESAMPLES = 400


@dataclass(frozen=True)
class Figures:
    """The cells, to be looked up."""

    cells: Sequence[Cell]
    _at: dict[tuple[Any, ...], Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for cell in self.cells:
            self._at[key_of(cell)] = cell

    def get(self, part: str, where: Condition, draft: str, depth: int, nodes: int) -> Cell | None:
        return self._at.get((part, *where, draft, depth, nodes))

    def curve(self, part: str, where: Condition, draft: str) -> list[Cell]:
        """All depths and node counts of a way to draft."""
        return [cell for key, cell in self._at.items() if key[:5] == (part, *where, draft)]

    def complete(self, where: Condition, draft: str) -> list[Cell]:
        """The curve of a way to draft if it begins with one pass; otherwise nothing: what is cheap would be missing."""
        curve = self.curve("paper", where, draft)
        return curve if any(cell["depth"] == 1 for cell in curve) else []

    def conditions(self, part: str, subject: str) -> list[Condition]:
        measured = {key[1:4] for key in self._at if key[:2] == (part, subject)}
        return [(subject, kind, t) for kind, t in CONDITIONS if (subject, kind, t) in measured]

    def subjects(self, part: str) -> list[str]:
        return list(dict.fromkeys(key[1] for key in self._at if key[0] == part))

    def drafts(self, part: str) -> list[str]:
        return list(dict.fromkeys(key[4] for key in self._at if key[0] == part))


def key_of(cell: Cell) -> tuple[Any, ...]:
    """What tells a cell from all others."""
    return tuple(cell[name] for name in ("part", "subject", "text", "temperature", "draft", "depth", "nodes_at_most"))


@dataclass(frozen=True)
class Gain:
    """Accepted tokens per round more than `base`; mean over texts of the paired differences ± standard error."""

    value: float
    error: float
    base: float

    @property
    def sign(self) -> int:
        """1 or −1 where the gain is more than two standard errors from 0."""
        return (self.value > 2 * self.error) - (self.value < -2 * self.error) if self.error > 0 else 0

    def __str__(self) -> str:
        return f"{signed(self.value)} ± {self.error:.2f}"


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def percent(value: float) -> str:
    return f"{value:+.0%}".replace("-", "−")


def gain(cell: Cell | None, base: Cell | None) -> Gain | None:
    """None where one of them was not measured."""
    if cell is None or base is None:
        return None
    pairs = zip(cell["lengths"], base["lengths"], strict=True)
    return Gain(*mean_and_error([a - b for a, b in pairs]), statistics.fmean(base["lengths"]))


@dataclass(frozen=True)
class Saving:
    """Share of drafter evaluations (or passes) saved at equal acceptance, with the 5th and 95th percentile over resampled texts.

    None: the others do not reach that length (in the point estimate, or in so many resamples that the end is open).
    """

    value: float | None
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """1: saves, −1: costs, 0: cannot be told."""
        if self.value is None or self.low is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high is not None and self.high < 0 else 0

    def __str__(self) -> str:
        if self.value is None:
            return "not reached"
        ends = ["?" if end is None else percent(end) for end in (self.low, self.high)]
        return f"{percent(self.value)} ({ends[0]}…{ends[1]})"


def saving(cell: Cell, others: Sequence[Cell], cost: str = "evaluations") -> Saving:
    """What `cell` saves of a cost ("evaluations" or "passes") against the best of `others` at its own accepted length."""
    count = len(cell["lengths"])
    value = _saved(cell, others, cost, range(count))
    chance = random.Random(0)
    found = [_saved(cell, others, cost, chance.choices(range(count), k=count)) for _ in range(RESAMPLES)]
    ordered = sorted(
        (float("inf") if one is None else one) for one in found
    )  # not reached: the others need more than all
    low, high = ordered[RESAMPLES // 20], ordered[-RESAMPLES // 20]
    return Saving(value, *(None if end == float("inf") else end for end in (low, high)))


def _saved(cell: Cell, others: Sequence[Cell], cost: str, texts: Iterable[int]) -> float | None:
    chosen = list(texts)

    def point(one: Cell) -> tuple[float, float]:
        return (
            statistics.fmean(one[cost][i] for i in chosen),
            statistics.fmean(one["lengths"][i] for i in chosen),
        )

    return saved(point(cell), [point(other) for other in others])


def worth(figures: Figures, where: Condition, draft: str, base: str, depth: int, nodes: int) -> float | None:
    """What `draft` adds to `base` at some depth, in further drafter passes of `base` at the same node count."""
    depths = list(DEPTHS)
    tree = [figures.get("edges", where, base, d, nodes) for d in depths]
    found = gain(figures.get("edges", where, draft, depth, nodes), tree[depths.index(depth)])
    if found is None or any(cell is None for cell in tree):
        return None
    lengths = [statistics.fmean(cell["lengths"]) for cell in tree if cell is not None]
    return passes_worth(found.value, between(depths, lengths), depth - 1)


def between(depths: Sequence[int], lengths: Sequence[float]) -> list[float]:
    """Lengths for 1, 2, 3, … passes, linear between the depths that were measured (the first of which is 1)."""
    filled = [lengths[0]]
    for (d0, l0), (d1, l1) in zip(
        zip(depths, lengths, strict=True), zip(depths[1:], lengths[1:], strict=True), strict=False
    ):
        filled += [l0 + (l1 - l0) * step / (d1 - d0) for step in range(1, d1 - d0 + 1)]
    return filled


def tally(signs: Iterable[int]) -> str:
    """How often something is a gain, a loss, or neither, in words."""
    every = list(signs)
    counts = {name: every.count(sign) for name, sign in (("better", 1), ("worse", -1), ("cannot be told apart", 0))}
    return ", ".join(f"{name} in {count}" for name, count in counts.items()) + f" of {len(every)}"


def span(values: Iterable[float], form: Callable[[float], str]) -> str:
    ordered = sorted(values)
    return "nothing" if not ordered else f"{form(ordered[0])} to {form(ordered[-1])}"
