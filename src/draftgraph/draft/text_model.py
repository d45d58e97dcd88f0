"""Drafting with a trained network that reads the text alone: an early exit, or masked blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from draftgraph.backends.feature_model import FeatureReader
from draftgraph.draft.model import ModelDrafter
from draftgraph.draft.passes import Ahead
from draftgraph.draft.terms import Draft, Limits
from draftgraph.request.state import Request


class TextDrafter(ModelDrafter):
    """A `ModelDrafter` that heeds how deep its network's drafts are, and which slots its rows allow."""

    def __init__(self, model: FeatureReader, vocab_size: int, edges: Sequence[str] = ()) -> None:
        super().__init__(model, vocab_size, edges)
        self.reader = model
        self.depths, self.draws = model.depths, model.draws
        self.identity = f"text {' '.join(self.edges)}"

    def fresh(self) -> TextDrafter:
        return TextDrafter(self.reader, self.vocab_size, self.edges)

    def propose(self, request: Request, limits: Limits) -> Draft:
        if self.depths is not None:
            limits = replace(limits, reach=min(limits.reach, self.depths), depth=min(limits.depth, self.depths))
        return super().propose(request, limits)

    def _ahead(self, request: Request, limits: Limits) -> Ahead | None:
        """Where one pass gives the rows of all depths, nothing is gained by reading ahead."""
        return super()._ahead(request, limits) if self.depths is None else None
