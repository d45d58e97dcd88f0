"""What a request gives back, at its end or where it was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from draftgraph.backends.base import CausalLM
from draftgraph.engine.bitwise import numerics
from draftgraph.request.result import Result
from draftgraph.request.state import Request
from draftgraph.request.text import whole_text


def result_of(request: Request, target: CausalLM, tokenizer: Any | None) -> Result:
    """The text so far, its statistics and its rounds; `finish_reason` is None if the request was interrupted."""
    choice, output = request.choice, request.output
    stats = request.tally.stats(
        rule=choice.rule.name,
        structure=choice.structure.name,
        lossless=choice.rule.lossless,
        numerics=numerics(target, choice.rule, request.params.temperature),
        prompt=request.prompt_length,
        output=len(output),
        backend=target.name,
    )
    text = "".join(request.pieces)
    if request.finish_reason is None:  # interrupted, with text held back that might have become a stop string
        text = whole_text(tokenizer, request.tokens, request.prompt_length, request.params.stop)
    return Result(
        text,
        output,
        request.finish_reason,
        stats,
        request.noise.seed,
        choice,
        request.logprobs[: len(output)] if request.params.logprobs else None,
        tuple(request.rounds),
        request.top_logprobs[: len(output)] if request.params.top_logprobs else None,
    )


def tell(error: BaseException, results: Sequence[Result], number: int) -> None:
    """Let an error of request `number` carry the results of its call."""
    error.partial, error.finished = results[number], list(results[:number])  # type: ignore[attr-defined]
    error.results = list(results)  # type: ignore[attr-defined]
