"""Logits to probabilities, at every node with that node's own prefix: the only place that shapes p and q.

The options are transformers' own processors in transformers' order, so a law here is the law of `model.generate`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from transformers import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from draftgraph.config import SamplingParams
from draftgraph.errors import LogitsError


class OutputPenalties(LogitsProcessor):  # type: ignore[misc]
    """Presence and frequency penalties of the OpenAI API: subtracted once, and per occurrence, for tokens of the output."""

    def __init__(self, prompt_length: int, presence: float, frequency: float) -> None:
        self.prompt_length, self.presence, self.frequency = prompt_length, presence, frequency

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        output = input_ids[:, self.prompt_length :]
        counts = torch.zeros_like(scores).scatter_add_(1, output, torch.ones_like(output, dtype=scores.dtype))
        return scores - self.presence * (counts > 0) - self.frequency * counts


class LogitBias(LogitsProcessor):  # type: ignore[misc]
    """A constant added to the logits of some tokens."""

    def __init__(self, bias: dict[int, float]) -> None:
        self.tokens, self.bias = torch.tensor(list(bias)), torch.tensor(list(bias.values()))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_add(1, self.tokens.to(scores.device), self.bias.to(scores).expand(len(scores), -1))


class Warper:
    """The warping of one request; one object shapes p, q and the bonus row alike."""

    def __init__(self, params: SamplingParams, prompt_length: int, eos: Sequence[int], device: torch.device) -> None:
        self.temperature = params.temperature
        self._prefixed = _prefixed(params, prompt_length, eos, device)
        self._shaping = _shaping(params)

    def probabilities(self, logits: torch.Tensor, prefixes: Prefixes) -> torch.Tensor:
        """f32[rows, V] laws (f64 for f64 logits) from raw logits f[rows, V]; one-hot at temperature 0."""
        return self.shape(self.scores(logits, prefixes))

    def scores(self, logits: torch.Tensor, prefixes: Prefixes) -> torch.Tensor:
        """Logits after everything that depends on the prefix (penalties, bias, processors), before the temperature."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if not self._prefixed:
            return logits
        scores = torch.empty_like(logits)
        for rows, ids in prefixes.by_length(len(logits), logits.device):
            part = logits[rows]
            for processor in self._prefixed:
                part = _call(processor, ids, part)
            scores[rows] = part.to(scores)
        return scores

    def shape(self, scores: torch.Tensor) -> torch.Tensor:
        """Temperature, top-k, top-p, min-p and softmax: rows of scores f[rows, V] to laws of the same shape."""
        if self.temperature == 0:
            laws = torch.zeros_like(scores).scatter_(1, scores.argmax(dim=1, keepdim=True), 1.0)
        else:
            scores = scores / self.temperature
            for processor in self._shaping:
                scores = processor(None, scores)
            laws = torch.softmax(scores, dim=1)
        if self._prefixed and not bool(torch.isfinite(laws).all()):
            raise LogitsError("the logits processors left a row that is not a distribution (NaN, +inf, or no token possible)")
        return laws


def _call(processor: LogitsProcessor, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    name = type(processor).__name__
    try:
        processed = processor(ids, scores)
    except Exception as error:
        raise LogitsError(f"logits processor {name} raised {type(error).__name__}: {error}") from error
    if not isinstance(processed, torch.Tensor) or processed.shape != scores.shape:
        raise LogitsError(f"logits processor {name} must return scores of shape {list(scores.shape)}")
    return processed


class Prefixes:
    """The prefix of every row: the committed text, then the row's own path of drafted tokens, `path(row)`."""

    def __init__(self, committed: Sequence[int], path: Callable[[int], Sequence[int]]) -> None:
        self.committed, self.path = committed, path

    def by_length(self, count: int, device: torch.device) -> list[tuple[list[int], torch.Tensor]]:
        """Rows of equal prefix length together, as processors take them: (row indices, i64[rows, length])."""
        paths = [self.path(row) for row in range(count)]
        groups: dict[int, list[int]] = defaultdict(list)
        for row, path in enumerate(paths):
            groups[len(path)].append(row)
        return [
            (rows, torch.tensor([[*self.committed, *paths[row]] for row in rows], device=device))
            for rows in groups.values()
        ]


def _prefixed(
    params: SamplingParams, prompt_length: int, eos: Sequence[int], device: torch.device
) -> list[LogitsProcessor]:  # fmt: skip
    """Processors that read the prefix, in transformers' order."""
    chain: list[LogitsProcessor] = []
    if params.logit_bias:
        chain.append(LogitBias(dict(params.logit_bias)))
    if params.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.presence_penalty or params.frequency_penalty:
        chain.append(OutputPenalties(prompt_length, params.presence_penalty, params.frequency_penalty))
    if params.min_new_tokens and eos:
        chain.append(MinNewTokensLengthLogitsProcessor(prompt_length, params.min_new_tokens, list(eos), device))
    return [*chain, *params.logits_processors]


def _shaping(params: SamplingParams) -> list[LogitsProcessor]:
    """Filters that read one row only."""
    chain: list[LogitsProcessor] = []
    if params.top_k:
        chain.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        chain.append(TopPLogitsWarper(params.top_p))
    if params.min_p > 0.0:
        chain.append(MinPLogitsWarper(params.min_p))
    return chain
