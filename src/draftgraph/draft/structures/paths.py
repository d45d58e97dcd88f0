"""Paths: several SAMPLED chains, drawn alike, that part at the root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.base import DEEPEST, Growth, Structure
from draftgraph.draft.structures.branching import grow_branching
from draftgraph.draft.structures.sizes import size
from draftgraph.draft.terms import Limits
from draftgraph.errors import OptionError

USUAL = 3
"""Paths that are about right where nobody says how many."""


@dataclass(frozen=True, repr=False)
class Paths(Structure):
    """SAMPLED i.i.d. paths from the root. At temperature 0 they begin with the best tokens.

    count   how many; None: about three, or more that are eight tokens long.
    length  tokens of every path, with a count; None: num_speculative_tokens, or what the budget allows.

    Raises OptionError for numbers that are not integers >= 1, and for a length without a count.
    """

    count: int | None = None
    length: int | None = None
    name: ClassVar[str] = "paths"

    def __post_init__(self) -> None:
        for name, value in (("count", self.count), ("length", self.length)):
            if value is not None:
                object.__setattr__(self, name, size(name, value))
        if self.length is not None and self.count is None:
            raise OptionError(
                f"length={self.length} leaves the number of paths open; write dg.structures.Paths({USUAL}, {self.length}), or "
                f"num_speculative_tokens={self.length} with structure='paths'"
            )

    @property
    def must_draw(self) -> bool:
        return True

    @property
    def shape(self) -> tuple[int, ...] | None:
        return None if self.count is None or self.length is None else (self.count, *(1,) * (self.length - 1))

    @property
    def nodes_per_level(self) -> int:
        return self.count or USUAL

    def limits(self, budget: int, depth: int | None, reach: int) -> Limits:
        fitting = budget // self.count if self.count else (budget + 1) // USUAL
        return Limits(budget, depth or max(1, min(DEEPEST, fitting)), reach)

    def grow(self, growth: Growth) -> DraftGraph:
        shape = self._within(growth.limits)
        return grow_branching(growth.evaluate, growth.draw, growth.limits, shape, "with_replacement")[0]

    def _within(self, limits: Limits) -> tuple[int, ...]:
        """The shape (K, 1, 1, ...), as large as the budget allows."""
        length = min(self.length or limits.depth, limits.budget)
        count = min(self.count or limits.budget // length, limits.budget)
        return (count, *(1,) * (min(length, limits.budget // count) - 1))
