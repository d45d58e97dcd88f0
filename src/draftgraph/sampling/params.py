"""How one request is sampled. Frozen and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real

import torch

from draftgraph.errors import require

LogitsProcessor = Callable[[torch.LongTensor, torch.FloatTensor], torch.FloatTensor]
"""transformers' protocol: (input_ids i64[rows, length], scores f[rows, V]) -> scores f[rows, V]."""
StopWhen = Callable[[int, torch.Tensor, torch.Tensor], bool]
"""stop_when(token, logits f[V], scores f[V]) -> whether the text ends with this token."""


@dataclass(frozen=True)
class SamplingParams:
    """How one request is sampled. The same options shape the target law p and the draft law q, at every drafted node.

    temperature         0 is greedy.
    top_k, top_p, min_p as in transformers; 0, 1.0 and 0.0 switch them off.
    repetition_penalty  as in transformers (prompt and output); presence_ and frequency_penalty as in the OpenAI API (output).
    logit_bias          token id -> number added to its logit.
    min_new_tokens      no end-of-sequence token before that many tokens.
    logits_processors   functions of (input_ids i64[rows, length], scores f[rows, V]), as transformers' LogitsProcessor; called
                        before the temperature. Rows are continuations of the prompt, of which many are asked about in one call
                        and most are never taken. So the same ids and scores must give the same answer, in whatever order and
                        company, and input_ids must tell all there is to know. The engine asks copies first, and refuses what
                        answers otherwise: processors that count their calls, remember earlier ids, draw random numbers or want
                        one row. With budget=0 they run: one row, once per token, in order. Scores may be changed in place.
    stop                strings that end the text; they are not part of it. stop_token_ids end it like the model's own.
    stop_when           called once per emitted token, in order, with the target's row that chose it: its logits, and its
                        scores after everything that depends on the prefix. True ends the text with that token.
    seed                None draws one; `Result.seed` tells it. sample distinguishes several samples with one seed.
    logprobs            also return the target's log-probability of every emitted token (before warping).
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_new_tokens: int = 0
    seed: int | None = None
    sample: int = 0
    stop: Sequence[str] | str = ()
    stop_token_ids: Sequence[int] = ()
    stop_when: StopWhen | None = None
    ignore_eos: bool = False
    logprobs: bool = False
    logits_processors: Sequence[LogitsProcessor] = ()

    def __post_init__(self) -> None:
        for name in (
            "max_new_tokens",
            "top_k",
            "min_new_tokens",
            "sample",
            *(("seed",) if self.seed is not None else ()),
        ):
            require(isinstance(getattr(self, name), Integral), name, getattr(self, name), "an integer")
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            require(isinstance(getattr(self, name), Real), name, getattr(self, name), "a number")
        for name in ("stop", "stop_token_ids", "logits_processors"):
            require(isinstance(getattr(self, name), Iterable), name, getattr(self, name), "a sequence; () is none")
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "an integer >= 1")
        require(0 <= self.temperature < math.inf, "temperature", self.temperature, "a number >= 0 (0 is greedy)")
        require(self.top_k >= 0, "top_k", self.top_k, "an integer >= 0 (0 switches it off)")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "a number in (0, 1] (1 switches it off)")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "a number in [0, 1] (0 switches it off)")
        require(
            0 < self.repetition_penalty < math.inf,
            "repetition_penalty",
            self.repetition_penalty,
            "a number > 0 (1 is none)",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            require(math.isfinite(getattr(self, name)), name, getattr(self, name), "a finite number (0 is none)")
        require(self.min_new_tokens >= 0, "min_new_tokens", self.min_new_tokens, "an integer >= 0")
        require(all(isinstance(s, str) and s for s in self.stop), "stop", self.stop, "one or several non-empty strings")
        require(self.stop_when is None or callable(self.stop_when), "stop_when", self.stop_when, "a callable, or None")
        require(self.sample >= 0, "sample", self.sample, "an integer >= 0")
        for processor in self.logits_processors:
            require(callable(processor), "logits_processors", processor, "callables (input_ids, scores) -> scores")
