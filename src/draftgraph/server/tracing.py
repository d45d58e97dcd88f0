"""How an answer was drafted, told to the client that asks for it with `draftgraph: {"trace": true}`.

The chunks of a stream bring rounds as they come. The last chunk, or the answer, brings all of them as a trace that
`draftgraph view` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from draftgraph.request.result import Event, Result
from draftgraph.request.text import Detokenizer
from draftgraph.server.errors import ApiError
from draftgraph.server.schemas import Sampled
from draftgraph.view.tracefile import make_trace

PARAM = "draftgraph.trace"


class Tracing:
    """What is told of the one choice of a request.

    tokenizer  of the target. prompt  token ids.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer, self._prompt = tokenizer, list(prompt)
        self._detokenizer = Detokenizer(tokenizer, self._prompt, ())
        self._words: dict[int, str] = {}

    def round(self, event: Event) -> dict[str, Any]:
        """What a chunk says of its round.

        round      the record, null for tokens that come without one.
        pieces     the text that each token of the event adds, as far as it is whole.
        words      texts of the tokens of the draft by id; those that were told before are left out.
        """
        pieces = [self._detokenizer.push([token]) for token in event.token_ids]
        if event.finish_reason is not None and pieces:
            pieces[-1] += self._detokenizer.finish()
        record = event.round
        drafted = () if record is None else (*record.tokens, record.bonus)
        words = {token: self._tokenizer.decode([token]) for token in dict.fromkeys(drafted) if token not in self._words}
        self._words |= words
        return {"round": None if record is None else asdict(record), "pieces": pieces, "words": words}

    def whole(self, result: Result) -> dict[str, Any]:
        """What a trace file holds."""
        prompt = str(self._tokenizer.decode(self._prompt))
        return make_trace(result, prompt, self._tokenizer, self._prompt).to_dict()


def tracing_of(asked: Sampled, tokenizer: Any, prompts: Sequence[Sequence[int]], per_prompt: int) -> Tracing | None:
    """None where no trace is wanted. Raises ApiError for several answers, as a trace is of one."""
    if asked.draftgraph is None or not asked.draftgraph.trace:
        return None
    if len(prompts) * per_prompt != 1:
        raise ApiError(
            400,
            f"{PARAM} is of one answer, and the request asks for {len(prompts) * per_prompt}; write n: 1 and one prompt",
            PARAM,
            "invalid_value",
        )
    if asked.max_tokens == 0:
        raise ApiError(400, f"{PARAM} needs an answer; write max_tokens: 1 or more", PARAM, "invalid_value")
    return Tracing(tokenizer, prompts[0])
