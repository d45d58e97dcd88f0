"""The texts a prediction is made on: the target's own (unbiased), or natural ones (an approximation).

Along text that the target wrote at the temperature in question, acceptance can be computed without drafting anything; see
`acceptance`. Natural text is what the user has; a target that writes otherwise than its users makes it an approximation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from draftgraph.engine.engine import Engine
from draftgraph.errors import OptionError
from draftgraph.sampling.params import SamplingParams

WARM_UP = 16
"""Tokens at the beginning of a natural text, or of a window of it, behind which nothing is predicted: too little context."""
SHORTEST = 16
"""Predicted positions that a text must have to be of use: the deepest chain, and some places where a round may start."""


@dataclass(frozen=True)
class Text:
    """Token ids, of which those from `start` on are predicted.

    room  how many could have been predicted at most. A text that has fewer ended by itself, with an end-of-sequence token.
    """

    tokens: tuple[int, ...]
    start: int
    room: int

    @property
    def count(self) -> int:
        return len(self.tokens) - self.start


def laid_out(messages: Sequence[Mapping[str, str]], tokenizer: Any) -> list[int]:
    """Token ids of a chat as the tokenizer's template lays it out, up to where the answer begins.

    Raises OptionError if the template fails.
    """
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the checkpoint's
        raise OptionError(
            f"the tokenizer's chat template cannot lay out {len(messages)} messages ({type(error).__name__}: {error}); "
            "correct it in the target's folder, or give prompts without turns"
        ) from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def natural_texts(texts: Sequence[Sequence[int]], window: int) -> list[Text]:
    """Token ids cut into windows of `window` tokens; windows with fewer than SHORTEST predicted positions are left out.

    Raises OptionError if none is left.
    """
    windows = [tuple(ids[i : i + window]) for ids in texts for i in range(0, len(ids), window)]
    kept = [Text(ids, WARM_UP, len(ids) - WARM_UP) for ids in windows if len(ids) >= WARM_UP + SHORTEST]
    if not kept:
        longest = max((len(ids) for ids in texts), default=0)
        raise OptionError(
            f"no text is long enough: {WARM_UP + SHORTEST} tokens are needed ({WARM_UP} of context, then {SHORTEST} to predict), "
            f"and the longest has {longest}. Give longer texts, or put several on one line"
        )
    return kept


def own_texts(engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Text]:
    """Plain decoding of the target behind every prompt (token ids): text of exactly the law that speculation must keep.

    engine  its budget must be 0, so that nothing of the drafter can enter. Sample i runs with `params.sample` = i.
    """
    texts: list[Text] = []
    for i, prompt in enumerate(prompts):
        result = engine.generate(list(prompt), replace(params, sample=i))
        ended = result.finish_reason == "stop"
        room = params.max_new_tokens if ended else len(result.token_ids)  # a context window may have cut it
        texts.append(Text((*prompt, *result.token_ids), len(prompt), room))
    return texts
