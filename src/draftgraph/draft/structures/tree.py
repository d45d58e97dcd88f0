"""Trees: of a given shape, or grown as the drafter's rows say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.base import Growth, Structure
from draftgraph.draft.structures.best_first import WIDTH, grow_best_first
from draftgraph.draft.structures.branching import grow_branching
from draftgraph.draft.structures.chain import grow_chain
from draftgraph.draft.structures.children import KINDS
from draftgraph.draft.structures.levels import grow_levels
from draftgraph.draft.structures.sizes import child_counts
from draftgraph.errors import OptionError, unknown_name
from draftgraph.verification.base import Rule


@dataclass(frozen=True, repr=False)
class Tree(Structure):
    """A tree of a given shape, or one that grows where most is expected.

    branching  children per node for every depth, e.g. (3, 2, 1, 1). None: level by level, as many as pay.
    children   how the children of a given shape are drawn:
               "hybrid"               the best ones FIXED, the last one SAMPLED from the rest;
               "with_replacement"     SAMPLED, each from the whole law;
               "without_replacement"  SAMPLED, each from the law without those before it;
               "spine"                one SAMPLED from the whole law, the best ones FIXED;
               "systematic"           one draw of different tokens;
               "fixed"                the best ones;
               "auto"                 the first of these that the rule verifies.
               At temperature 0 all are the best ones.

    Raises OptionError for a shape or a kind of children that is not possible.
    """

    branching: Sequence[int] | None = None
    children: str = "auto"
    name: ClassVar[str] = "tree"

    def __post_init__(self) -> None:
        if not isinstance(self.children, str) or self.children not in ("auto", *KINDS):
            raise unknown_name("children", self.children, (*KINDS, "auto"))
        if self.branching is not None:
            object.__setattr__(self, "branching", child_counts(self.branching))
        elif self.children != "auto":
            raise OptionError(
                f"children={self.children!r} fill a given shape; write "
                f"dg.structures.Tree((3, 2, 1, 1), children={self.children!r})"
            )

    @property
    def draws(self) -> bool:
        return self.children != "fixed"

    @property
    def must_draw(self) -> bool:
        return self.children not in ("auto", "fixed")

    @property
    def needs_model(self) -> bool:
        return self.branching is not None

    @property
    def best_first(self) -> bool:
        return self.branching is None

    @property
    def narrows(self) -> bool:
        return self.branching is None

    @property
    def shape(self) -> tuple[int, ...] | None:
        return None if self.branching is None else tuple(self.branching)

    def suited(self, rule: Rule) -> Structure:
        """With the first kind of children that the rule verifies in this shape, "hybrid" if it verifies none."""
        if self.branching is None or self.children != "auto":
            return self
        if not rule.uses_laws:
            return replace(self, children="fixed")
        kinds = (replace(self, children=kind) for kind in KINDS if kind != "fixed")
        return next((tree for tree in kinds if tree.verified_by(rule, True)), replace(self, children="hybrid"))

    def grow(self, growth: Growth) -> DraftGraph:
        if self.shape is None:
            return grow_where_expected(growth)
        children = "hybrid" if self.children == "auto" else self.children
        return grow_branching(growth.evaluate, growth.draw, growth.limits, self.shape, children)[0]


def grow_where_expected(growth: Growth) -> DraftGraph:
    """One path where that is all there shall be; the level policy where slots are SAMPLED, best-first where all are FIXED."""
    if growth.limits.narrow:
        return grow_chain(growth, growth.limits.budget)
    if growth.draw is None:
        expected = growth.calibration.expected
        return grow_best_first(growth.evaluate, growth.limits, expected, WIDTH, growth.known)[0]
    return grow_levels(growth.evaluate, growth.draw, growth.limits, growth.calibration)[0]
