"""Whether a model's layers can attend to the cells of their own requests: some have attention past transformers' interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from draftgraph.backends.base import Feed
from draftgraph.backends.layer_kinds import LayerKind
from draftgraph.types import ROOT

if TYPE_CHECKING:
    from draftgraph.backends.torch_model import TorchModel

SPAN = 3
"""Tokens of a window here, so that short texts tell kinds of layers apart."""
CLOSE, CLOSE_ROUNDED = 1e-4, 0.1
"""Differences that rounding makes, as a share of the logits' scale."""


@torch.no_grad()
def attends_apart(model: TorchModel) -> bool:
    """Compare a pass over own cells with one over all cells: three texts of different sizes, with drafts."""
    if model.own_masks:
        return False
    kinds = [kind if kind.span is None else replace(kind, span=min(SPAN, kind.span)) for kind in model.kinds]
    try:
        apart, together = (_logits(model, kinds, way) for way in (True, False))
    except Exception:  # whatever is in the way: attention over all cells needs nothing of it
        return False
    scale = float((together - together.mean(dim=1, keepdim=True)).abs().max()) + 1e-6
    whole = model.dtype in (torch.float32, torch.float64) and model.rounding is None
    return float((apart - together).abs().max()) <= (CLOSE if whole else CLOSE_ROUNDED) * scale


def _logits(model: TorchModel, kinds: Sequence[LayerKind], apart: bool) -> torch.Tensor:
    """f[rows, V] of all rows that are asked for."""
    texts = [model.open(8) for _ in range(3)]
    ids = [(7 * i * i + 3 * i + 1) % model.vocab_size for i in range(40)]
    drafts = [(ids[:7], ids[7:10], [ROOT, 0, ROOT]), (ids[10:14], [], []), (ids[14:15], ids[15:19], [ROOT] * 4)]
    later = [(ids[20:22], [], []), (ids[22:23], ids[23:25], [ROOT, 0]), ((), ids[25:28], [3, 4, 2])]
    rows = []
    try:
        for feeds in (drafts, later):
            fed = [Feed(text, *feed) for text, feed in zip(texts, feeds, strict=True)]
            if feeds is later:
                model.keep(texts[0], [0, 1])
            rows += [scored.logits.float() for scored in model.one_pass(fed, {}, kinds, apart, always=apart)]
        return torch.cat(rows)
    finally:
        for text in texts:
            model.close(text)
