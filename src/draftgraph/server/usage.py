"""What a request cost, in OpenAI's terms, and how its drafts fared, in vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from draftgraph.request.record import RoundRecord
from draftgraph.request.result import Result

_PREDICTED = "text"
"""The source of copies that `prediction` is."""


def usage_of(prompts: Sequence[Sequence[int]], results: Sequence[Result], per_prompt: int) -> dict[str, Any]:
    """Tokens of all prompts and choices; and that the rule is not lossless, where it is not.

    per_prompt  choices of each prompt, which is counted once.
    """
    copied = sum(_predicted(result.rounds) for result in results)
    accepted = sum(result.stats.accepted_by_source.get(_PREDICTED, 0) for result in results)
    lossy = {} if all(result.stats.lossless for result in results) else {"lossless": False}
    return lossy | usage(
        sum(map(len, prompts)),
        sum(len(result.token_ids) for result in results),
        cached=sum(result.stats.num_cached_prompt_tokens for result in results[::per_prompt]),
        accepted=accepted,
        rejected=copied - accepted,
    )


def usage(prompt: int, completion: int, cached: int = 0, accepted: int = 0, rejected: int = 0) -> dict[str, Any]:
    """accepted, rejected  tokens that were drafted from `prediction`, as OpenAI counts them."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": rejected,
        },
    }


def speculation_of(results: Sequence[Result]) -> dict[str, Any] | None:
    """`metrics` of a response, in the schema of vLLM; null for several choices, as there.

    num_spec_tokens is the depth of the request's deepest draft, so that the histogram has one entry for every outcome.
    """
    if len(results) != 1:
        return None
    stats = results[0].stats
    depth = max((depth for record in results[0].rounds for depth in record.depths()), default=0)
    histogram = [*stats.acceptance_histogram, *[0] * (depth + 1)][: depth + 1]
    return {
        "speculative_decoding": {
            "mean_acceptance_length": stats.mean_acceptance_length,
            "draft_acceptance_rate": stats.draft_acceptance_rate,
            "acceptance_histogram": histogram,
            "num_spec_steps": stats.num_rounds,
            "num_accepted_draft_tokens": stats.num_accepted_tokens,
            "num_draft_tokens": stats.num_draft_tokens,
            "num_spec_tokens": depth,
        }
    }


def _predicted(rounds: Sequence[RoundRecord]) -> int:
    return sum(record.origins.count(_PREDICTED) for record in rounds)
