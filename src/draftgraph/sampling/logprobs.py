"""Log-probabilities under the model's own softmax, before anything is warped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class LogProbabilities:
    """values  of some tokens. best  for each of them the best tokens of its row with theirs, the best first."""

    values: list[float] = field(default_factory=list)
    best: list[tuple[tuple[int, float], ...]] = field(default_factory=list)


def log_probabilities(logits: torch.Tensor, tokens: Sequence[int], top: int = 0) -> LogProbabilities:
    """Of each token under its row of the raw logits f[len(tokens), V], and of the `top` best of that row."""
    rows = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=1)
    values: list[float] = rows[range(len(tokens)), list(tokens)].tolist()
    if not top:
        return LogProbabilities(values)
    best, ids = rows.topk(top, dim=1)
    pairs = zip(ids.tolist(), best.tolist(), strict=True)
    return LogProbabilities(values, [tuple(zip(row, found, strict=True)) for row, found in pairs])
