"""Drafting with a network that reads the target's hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from draftgraph.backends.feature_model import FeatureHandle, FeatureReader
from draftgraph.draft.model import ModelDrafter
from draftgraph.draft.passes import Ahead
from draftgraph.draft.terms import Draft, Limits
from draftgraph.request.state import Request


class HiddenDrafter(ModelDrafter):
    """A drafter over a `FeatureReader`, which grows the structures that a draft model does.

    In the first round the target has not read the prompt's end, so that there are copies at most.
    """

    def __init__(self, model: FeatureReader, vocab_size: int, edges: Sequence[str] = ()) -> None:
        super().__init__(model, vocab_size, edges)
        self.features, self.taps = model, model.taps
        self.depths = model.depths
        self.identity = f"features {' '.join(self.edges)}"

    def fresh(self) -> HiddenDrafter:
        return HiddenDrafter(self.features, self.vocab_size, self.edges)

    def read(self, request: Request, taps: Mapping[str, torch.Tensor], path: Sequence[int]) -> None:
        text = _text(request)
        rows = torch.cat([taps[name] for name in self.taps], dim=-1)
        joined = len(request.text) - text.known
        text.learn(rows[[*range(joined), *(joined + node for node in path)]])

    def prefill(self, request: Request, limits: Limits) -> bool:
        text = _text(request)
        return text.known + 1 >= len(text) + self.model.most_rows and super().prefill(request, limits)

    def propose(self, request: Request, limits: Limits) -> Draft:
        text, length = _text(request), len(request.tokens)
        known = text.known + 1 >= length > len(text)
        if self.depths is not None:
            limits = replace(limits, reach=min(limits.reach, self.depths), depth=min(limits.depth, self.depths))
        return super().propose(request, limits if known else limits.instead or replace(limits, depth=0))

    def _ahead(self, request: Request, limits: Limits) -> Ahead | None:
        """Nothing is read ahead: a row reads the output of the row above it, which the same pass computes."""
        return None


def _text(request: Request) -> FeatureHandle:
    text: FeatureHandle = request.drafting.text
    return text
