"""What the target says of answers, for training and for measuring: read anew every time, or kept on disk by `stored.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.batches import Batch
from draftgraph.lab.train.features.unroll import Read, read_target, with_head


class Reading(Protocol):
    """What a training reads of its target."""

    def fill(self) -> None:
        """Get ready for many epochs. Raises TrainingError."""

    def read(self, answers: Sequence[Answer], batch: Batch) -> Read:
        """What the target says of answers, which `batch` holds, over the drafter's head."""

    def chances(self, answers: Sequence[Answer], batch: Batch) -> torch.Tensor:
        """f32[b · T] log-probabilities, at the temperatures of the answers, of the token after every row that is learnt."""


class LiveReading:
    """Reads the target every time.

    head  of the target over the drafter's tokens. taps  that the drafter reads.
    """

    def __init__(self, target: PreTrainedModel, head: nn.Module, taps: tuple[str, ...]) -> None:
        self.target, self.head, self.taps = target, head, taps

    def fill(self) -> None:
        """Nothing is kept."""

    def read(self, answers: Sequence[Answer], batch: Batch) -> Read:
        """See `Reading`."""
        with with_head(self.target, self.head):
            return Read(*read_target(self.target, batch.tokens, self.taps))

    def chances(self, answers: Sequence[Answer], batch: Batch) -> torch.Tensor:
        """See `Reading`."""
        return chances_of(read_target(self.target, batch.tokens, ())[0], batch)


def chances_of(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """`Reading.chances` from logits f[b, T, V]; 0 where nothing is learnt, and of greedy answers, which need none."""
    rows, size = batch.rows(0), batch.tokens.shape[1]
    temperatures = batch.temperatures[rows // size]
    rows = rows[temperatures > 0]
    following = batch.tokens.flatten()[rows + 1]
    warm = logits.flatten(0, 1)[rows].float() / temperatures[temperatures > 0][:, None]
    chances = torch.zeros(batch.tokens.numel(), device=logits.device)
    chances[rows] = warm.gather(1, following[:, None])[:, 0] - warm.logsumexp(-1)
    return chances
