"""What a request asks of the engine: how each of its choices is sampled and drafted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from draftgraph.engine.engine import Engine
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import fresh_seed
from draftgraph.server.errors import ApiError
from draftgraph.server.generation import Choice
from draftgraph.server.prompts import text_of
from draftgraph.server.schemas import Sampled

NAMES = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "stop_token_ids": "stop_token_ids",
    "stop": "stop",
    "logit_bias": "logit_bias",
    "prediction": "prediction",
    "num_speculative_tokens": "draftgraph.num_speculative_tokens",
    "structure": "draftgraph.structure",
    "rule": "draftgraph.rule",
    "threshold": "draftgraph.threshold",
    "budget": "budget",
    "top_logprobs": "logprobs",
    "temperature": "temperature",
    "repetition_penalty": "repetition_penalty",
    "top_k": "top_k",
    "grammar": "response_format",
}
"""The engine's names of options, and where a request says them."""
_AS_THEY_ARE = (
    "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "seed", "stop",
    "stop_token_ids", "ignore_eos",
)  # fmt: skip
WINDOWLESS_TOKENS = 4096
"""How long an answer may be where neither request nor model says so."""


def room(engine: Engine, prompt: Sequence[int], asked: int | None, param: str) -> int:
    """How many tokens may be generated; all that fit where nobody says. Raises ApiError with the numbers."""
    window = engine.target.context_window
    if window is None:
        return WINDOWLESS_TOKENS if asked is None else asked
    if len(prompt) + max(asked or 0, 1) > window:
        wanted = "" if asked is None else f" and {asked} in the answer"
        total = len(prompt) + (asked or 0)
        raise ApiError(
            400,
            f"the model's context window has {window} tokens, and the request has {total}: {len(prompt)} in the prompt{wanted}; "
            "shorten the prompt or ask for fewer tokens",
            param,
            "context_length_exceeded",
        )
    return window - len(prompt) if asked is None else asked


def sampling(asked: Sampled, limit: int, **more: Any) -> SamplingParams:
    """The options of all choices. limit  tokens at most. more  further fields. Raises OptionError and ApiError."""
    options = {name: getattr(asked, name) for name in _AS_THEY_ARE if getattr(asked, name) is not None}
    options["temperature"] = 1.0 if asked.temperature is None else asked.temperature
    if asked.top_k is not None:
        options["top_k"] = max(asked.top_k, 0)  # -1 is off for vLLM
    if asked.min_tokens is not None:
        if asked.min_tokens > limit:
            raise ApiError(400, f"min_tokens={asked.min_tokens} is more than the {limit} that may come", "min_tokens")
        options["min_new_tokens"] = asked.min_tokens
    if isinstance(asked.stop, str | list) and "" in (asked.stop if isinstance(asked.stop, list) else [asked.stop]):
        raise ApiError(
            400, "stop has an empty string, which every text contains; leave it out", "stop", "invalid_value"
        )
    return SamplingParams(max_new_tokens=limit, **options, **more)


def drafting(asked: Sampled) -> dict[str, Any]:
    """The options of this request's drafts. Raises ApiError."""
    own = {} if asked.draftgraph is None else asked.draftgraph.model_dump(exclude_none=True, exclude={"trace"})
    if asked.budget is not None:
        if own.get("budget", asked.budget) != asked.budget:
            raise ApiError(400, "budget and draftgraph.budget differ; write one of them", "budget", "invalid_value")
        own["budget"] = asked.budget
    if asked.prediction is not None:
        own["prediction"] = text_of(asked.prediction.content)
    return own


def several(prompt: Sequence[int], params: SamplingParams, options: dict[str, Any], count: int) -> list[Choice]:
    """`count` choices of one prompt: with one seed, each its own sample."""
    if count > 1 and params.seed is None:
        params = replace(params, seed=fresh_seed())
    return [Choice(prompt, replace(params, sample=sample), options) for sample in range(count)]
