"""Graphs: a tree whose spare slots hold copies of what was seen already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from draftgraph.draft.graph import DraftGraph, EdgeSource
from draftgraph.draft.structures.base import Growth, Structure
from draftgraph.draft.structures.best_first import add_edges
from draftgraph.draft.structures.sizes import size
from draftgraph.draft.structures.tree import grow_where_expected
from draftgraph.draft.unroll import Unroller

MIN_COPY_SCORE = 0.02
"""A copy whose estimated mass is below this is not worth a row of the target."""
AHEAD = 8
"""Copies read ahead per drafter pass; measured where all slots are FIXED, in docs/decisions.md."""


@dataclass(frozen=True, repr=False)
class Graph(Structure):
    """A tree that grows where most is expected, with copies along edges in its spare slots.

    read_ahead  copies that every drafter pass reads beyond what is asked of it, so that later passes may not be needed.
                "auto": some where all slots are FIXED and the budget is "auto"; with a number every pass is made anyway.
                The drafts are the same either way.

    Raises OptionError for a number of copies that is not an integer >= 0.
    """

    read_ahead: int | str = "auto"
    name: ClassVar[str] = "graph"
    filled: ClassVar[bool] = True
    copied: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.read_ahead, str) or self.read_ahead != "auto":
            object.__setattr__(self, "read_ahead", size("read_ahead", self.read_ahead, 0, ", or 'auto'"))

    @property
    def needs_model(self) -> bool:
        return self.read_ahead not in ("auto", 0)

    @property
    def best_first(self) -> bool:
        return True

    @property
    def narrows(self) -> bool:
        return True

    def copies_ahead(self, priced: bool) -> int:
        return (AHEAD if priced else 0) if self.read_ahead == "auto" else int(self.read_ahead)

    def grow(self, growth: Growth) -> DraftGraph:
        graph = grow_where_expected(growth)
        if (
            growth.sources is None
            or growth.limits.narrow
            or (growth.draw is not None and len(graph) >= growth.limits.budget)
        ):
            return graph
        sources = growth.sources(graph)
        if growth.draw is None:
            return add_edges(graph, sources, growth.context, growth.limits, growth.refuses)
        return _fill(graph, sources, growth)


def _fill(graph: DraftGraph, sources: Sequence[EdgeSource], growth: Growth) -> DraftGraph:
    """Copies at the nodes that the drafter was not asked about.

    They have only FIXED slots below them, so they leave every SAMPLED slot's odds as they were and may depend on anything
    in the draft (docs/layer_rule.md, "FIXED subtrees").
    """
    limits = growth.limits
    floor = max(limits.floor, MIN_COPY_SCORE)
    unroller = Unroller(graph, sources, growth.context, floor, refuses=growth.refuses)
    unroller.grow(graph.unevaluated(limits.reach), limits.budget, limits.reach)
    return graph
