"""The structure of drafts whose drafter says nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.base import Growth, Structure
from draftgraph.draft.structures.tree import grow_where_expected


@dataclass(frozen=True, repr=False)
class Own(Structure):
    """Any tree, of FIXED and SAMPLED slots, whose shape may have looked anywhere above. Promises nothing else."""

    name: ClassVar[str] = "own"

    def grow(self, growth: Growth) -> DraftGraph:
        """An example: what grows level by level promises as little."""
        return grow_where_expected(growth)
