"""The windows of text that training steps see."""

from __future__ import annotations

import torch
from torch import Tensor

from draftgraph.lab.train.errors import PairTrainingError


class Windows:
    """Batches of windows that cover the whole text, in random order, before any part repeats."""

    def __init__(self, tokens: Tensor, seed: int) -> None:
        self._tokens = tokens
        self._random = torch.Generator().manual_seed(seed)
        self._length = 0
        self._starts: list[int] = []

    def take(self, count: int, length: int) -> Tensor:
        """i64[count, length + 1]: inputs and, shifted by one, what they should predict."""
        if self._tokens.numel() <= 2 * length + 1:
            raise PairTrainingError(
                f"Windows of {length} tokens were asked for, but the text has only "
                f"{self._tokens.numel()} tokens. "
                "Train on a folder with more Python files."
            )
        if length != self._length:
            self._length, self._starts = length, []
        rows: list[Tensor] = []
        while len(rows) < count:
            if not self._starts:
                self._refill()
            start = self._starts.pop()
            rows.append(self._tokens[start : start + length + 1])
        return torch.stack(rows)

    def _refill(self) -> None:
        """A new pass begins at a random offset, so that the windows' borders do not fall in the same places."""
        offset = int(torch.randint(self._length, (1,), generator=self._random))
        starts = torch.arange(offset, self._tokens.numel() - self._length - 1, self._length)
        self._starts = starts[torch.randperm(len(starts), generator=self._random)].tolist()
