"""The options that look at the tokens of a text: bias, penalties, least length. They are transformers' own, at a fixed cost.

A processor of transformers reads the whole text of every row. These read what they need of it: the distinct tokens, how often
each was emitted, and the length. What they need of the committed text grows with it, and is never made anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, MinNewTokensLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor

from draftgraph.sampling.params import SamplingParams


class CommittedText:
    """The committed text of one request as tensors.

    It is told the text again and again (`read`), which has grown since, or is another one.
    """

    def __init__(self, prompt_length: int, device: torch.device) -> None:
        self.prompt_length, self.device = prompt_length, device
        self._forget(())

    def _forget(self, text: Sequence[int]) -> None:
        self._text, self.length, self._last = text, 0, -1
        self._ids, self._distinct = Growing(self.device), Growing(self.device)
        self._known: set[int] = set()
        self._counted, self._counts = self.prompt_length, torch.empty(0, device=self.device)

    def read(self, text: Sequence[int]) -> None:
        length = self.length
        if text is not self._text or len(text) < length or (length and text[length - 1] != self._last):
            self._forget(text)
        new = list(text[self.length :])
        if new:
            self._ids.extend(new)
            self._distinct.extend([token for token in dict.fromkeys(new) if token not in self._known])
            self._known.update(new)
            self.length, self._last = len(text), text[-1]

    @property
    def ids(self) -> torch.Tensor:
        """i64[length]."""
        return self._ids.tensor

    @property
    def distinct(self) -> torch.Tensor:
        """i64[n], every token of the text once."""
        return self._distinct.tensor

    def counts(self, vocab: int) -> torch.Tensor:
        """f32[vocab], how often every token was emitted after the prompt."""
        if len(self._counts) != vocab:
            self._counted, self._counts = self.prompt_length, torch.zeros(vocab, device=self.device)
        new = self.ids[self._counted :]
        if len(new):
            self._counts.index_add_(0, new, torch.ones(len(new), device=self.device))
            self._counted = self.length
        return self._counts


class Growing:
    """Whole numbers in a tensor that has room for more."""

    def __init__(self, device: torch.device) -> None:
        self._room, self._size = torch.empty(64, dtype=torch.int64, device=device), 0

    def extend(self, numbers: Sequence[int]) -> None:
        end = self._size + len(numbers)
        if end > len(self._room):
            room = torch.empty(max(end, 2 * len(self._room)), dtype=torch.int64, device=self._room.device)
            room[: self._size] = self._room[: self._size]
            self._room = room
        self._room[self._size : end] = torch.tensor(numbers, dtype=torch.int64)
        self._size = end

    @property
    def tensor(self) -> torch.Tensor:
        return self._room[: self._size]


class Penalties:
    """The options of one request, in transformers' order. False where there are none."""

    def __init__(self, params: SamplingParams, prompt_length: int, eos: Sequence[int], device: torch.device) -> None:
        self._bias = dict(params.logit_bias) if params.logit_bias else {}
        repetition = params.repetition_penalty
        self._repetition = None if repetition in (None, 1.0) else RepetitionPenaltyLogitsProcessor(repetition)
        self._presence, self._frequency = params.presence_penalty, params.frequency_penalty
        self._least: LogitsProcessor | None = None
        if params.min_new_tokens and eos:
            self._least = MinNewTokensLengthLogitsProcessor(prompt_length, params.min_new_tokens, list(eos), device)

    def __bool__(self) -> bool:
        given = self._bias or self._presence or self._frequency
        return bool(given) or self._repetition is not None or self._least is not None

    def __call__(self, text: CommittedText, paths: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores f[rows, V] of rows behind the text and paths i64[rows, depth] of drafted tokens."""
        if self._bias:
            tokens = torch.tensor(list(self._bias), device=scores.device)
            bias = torch.tensor(list(self._bias.values())).to(scores).expand(len(scores), -1)
            scores = scores.index_add(1, tokens, bias)
        if self._repetition is not None:
            seen = torch.cat([text.distinct.to(paths.device).expand(len(paths), -1), paths], dim=1)
            scores = self._repetition(seen, scores)
        if self._presence or self._frequency:
            counts = text.counts(scores.shape[1]).to(scores).expand(len(scores), -1)
            counts = counts.scatter_add(1, paths, torch.ones_like(paths, dtype=scores.dtype))
            scores = scores - self._presence * (counts > 0) - self._frequency * counts
        if self._least is not None:
            length = text.length + paths.shape[1]
            scores = self._least(paths.new_zeros(1, 1).expand(1, length), scores)  # which reads the length alone
        return scores
