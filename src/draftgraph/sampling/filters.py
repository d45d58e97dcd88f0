"""Top-k, top-p and min-p on the head of every row.

They keep a few dozen tokens out of a hundred thousand, and sorting whole rows to find them can cost more than the target's
forward pass. Here the filters look at the likeliest tokens only, and at more of them for rows whose head does not decide it
(flat laws, ties at its end). The laws are those of transformers' processors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

HEAD, TIES, WIDER = 256, 16, 16
"""Tokens of a row that are looked at first (or top_k and some that may tie with its last one); factor for undecided rows."""


@dataclass(frozen=True)
class Filters:
    """The filters of one request, applied in transformers' order; 0, 1.0 and 0.0 switch them off."""

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.top_k) or self.top_p < 1.0 or self.min_p > 0.0

    def laws(self, scores: torch.Tensor) -> torch.Tensor:
        """Laws f[n, V] from scores f[n, V] that were divided by the temperature."""
        return self._laws(scores, self.top_k + TIES if self.top_k else HEAD)

    def _laws(self, scores: torch.Tensor, size: int) -> torch.Tensor:
        vocab = scores.shape[1]
        head, tokens = scores.topk(min(vocab, size), dim=1)
        kept, decided = self._keep(head, scores, whole=size >= vocab)
        laws = torch.zeros_like(scores)
        laws.scatter_(1, tokens, torch.softmax(head.masked_fill(~kept, -torch.inf), dim=1))
        left = (~decided).nonzero()[:, 0]
        if len(left):
            laws[left] = self._laws(scores[left], WIDER * size)
        return laws

    def _keep(self, head: torch.Tensor, scores: torch.Tensor, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(which tokens of the head are kept, bool[n, size]; whether no token behind the head can be, bool[n])."""
        kept = torch.ones_like(head, dtype=torch.bool)
        decided = torch.full((len(head),), whole, device=head.device)
        if self.top_k:
            least = head[:, min(self.top_k, head.shape[1]) - 1, None]
            kept &= head >= least  # as in transformers, tokens that tie with the last one stay
            decided |= head[:, -1] < least[:, 0]
        if self.top_p < 1.0:
            rows = head.masked_fill(~kept, -torch.inf) if self.top_k else scores
            share = torch.exp(head - _log_sums(rows)) * kept
            reached = share.cumsum(dim=1, dtype=torch.float64)
            kept &= reached - share < self.top_p
            kept[:, 0] = True
            decided |= reached[:, -1] >= self.top_p
        if self.min_p > 0.0:
            least = head[:, :1] + math.log(self.min_p)
            kept &= head >= least
            decided |= head[:, -1] < least[:, 0]
        return kept, decided


def _log_sums(rows: torch.Tensor) -> torch.Tensor:
    """log Σ exp of every row, f[n, 1]. Torch divides the sum of a single row among threads, which gives it other bits."""
    several = rows if len(rows) > 1 else rows.repeat(2, 1)
    return several.logsumexp(dim=1, keepdim=True)[: len(rows)]
