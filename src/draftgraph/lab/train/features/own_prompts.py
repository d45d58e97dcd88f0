"""Prompts that a target writes itself, so that nobody has to bring any (Magpie, arXiv 2406.08464).

A chat model that reads its template up to where the user's words begin goes on with what users say. Half of the prompts begin
there, the others behind the first words of a common kind of task, so that all kinds are learnt. A model without a template begins
a text, and what it begins with is a prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from draftgraph.errors import OptionError
from draftgraph.lab.texts import laid_out
from draftgraph.lab.train.features.answers import Answer
from draftgraph.values import as_integer

BEGINNINGS = (
    "Translate to German: ",
    "Translate German to English: ",
    "Translate into French: ",
    "Translate to Spanish: ",
    "Summarize: ",
    "Summarize this article in three sentences:\n\n",
    "Answer the question from the text below.\n\nText: ",
    "Who ",
    "When did ",
    "How many ",
    "What is the ",
    "Solve this problem step by step. ",
    "Calculate ",
    "Write a ",
    "Write a story ",
    "Write an email ",
    "Explain ",
    "Compare ",
    "Imagine that you are ",
    "Pretend to be ",
    "Write a Python function ",
    "Extract the following information from the text: ",
    "Give me a list of ",
    "Is it true that ",
)
"""First words of prompts of common kinds."""
TEMPERATURES = (0.8, 1.0)
"""At which prompts are drawn, in turn."""
WRITTEN = 96
"""Tokens of a prompt that a chat model writes, at most; longer ones have no end, and are left out."""
BEGUN = 24
"""Tokens of a prompt that another model begins."""
FEWEST_LETTERS = 8
_STANDIN = "WORDSOFTHEUSER"


@dataclass(frozen=True)
class Opening:
    """Where a prompt is begun.

    ids   tokens that the target reads.
    said  first words of the prompt, which it has read.
    """

    ids: list[int]
    said: str = ""


@dataclass(frozen=True)
class Writing:
    """How a target is made to write prompts.

    openings  in turn. most  tokens that it may write.
    ends      ids that end a prompt.
    read      the prompt's token ids from an opening and what was written behind it; None for what is no prompt.
    """

    openings: Sequence[Opening]
    most: int
    ends: Collection[int]
    read: Callable[[Opening, Sequence[int]], list[int] | None]

    def asked(self, first: int, count: int) -> list[tuple[list[int], float]]:
        """What the target goes on with, from number `first` on, and at which temperatures."""
        turn = len(self.openings)
        return [
            (self.openings[i % turn].ids, TEMPERATURES[(i + i // turn) % len(TEMPERATURES)])
            for i in range(first, first + count)
        ]

    def prompts(self, first: int, written: Iterable[Answer]) -> list[list[int]]:
        """The prompts among what the target wrote behind `asked(first, …)`."""
        read = (
            self.read(self.openings[(first + i) % len(self.openings)], answer.ids[answer.prompt :].tolist())
            for i, answer in enumerate(written)
        )
        return [ids for ids in read if ids is not None]


def writing_of(tokenizer: Any | None, eos: Collection[int], bos: int | None) -> Writing:
    """How a target with this tokenizer writes prompts; eos  its ends, bos  what a text of its begins with.

    Raises OptionError where there is nothing to begin with.
    """
    if getattr(tokenizer, "chat_template", None):
        return _of_chats(tokenizer, eos)
    if bos is None:
        raise OptionError(
            "this target has neither a chat template nor a token that texts begin with, so that it cannot write prompts; give "
            "some with --prompts, or answers with --answers"
        )
    return Writing([Opening([bos])], BEGUN, eos, lambda opening, ids: _begun(opening, ids, eos))


def distinct(prompts: Iterable[Sequence[int]]) -> list[list[int]]:
    """Each prompt once, in order."""
    return [list(ids) for ids in dict.fromkeys(map(tuple, prompts))]


def mixed(given: Sequence[list[int]], written: Sequence[list[int]], seed: int) -> list[list[int]]:
    """Prompts that were given and those that were written, each once, shuffled."""
    prompts = distinct([*given, *written])
    random.Random(seed).shuffle(prompts)
    return prompts


def bos_id(target: PreTrainedModel, tokenizer: Any | None) -> int | None:
    """The token that texts of a target begin with; None if nobody says."""
    for source in (target.generation_config, target.config.get_text_config(decoder=True), tokenizer):
        found = as_integer(getattr(source, "bos_token_id", None))
        if found is not None and found >= 0:
            return found
    return None


def _begun(opening: Opening, ids: Sequence[int], eos: Collection[int]) -> list[int] | None:
    """What a model without a template begins with; a text that has ended asks for nothing."""
    return None if ids[-1] in eos else [*opening.ids, *ids]


def _of_chats(tokenizer: Any, eos: Collection[int]) -> Writing:
    before, after = _around_the_user(tokenizer)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    behind = list(tokenizer(after, add_special_tokens=False)["input_ids"])
    first = next((i for i, token in enumerate(behind) if token in special), len(behind))
    ends = {*eos, *behind[first : first + 1]}
    marker = tokenizer.decode(behind[:first]).strip()
    heads = ["", *BEGINNINGS]
    openings = [Opening(_encoded(tokenizer, before + head), head.rstrip(" ")) for head in heads]
    turns = [opening for one in openings[1:] for opening in (openings[0], one)]

    def read(opening: Opening, ids: Sequence[int]) -> list[int] | None:
        said = opening.said + _behind(opening.ids, [token for token in ids if token not in ends], tokenizer)
        text, mark, _ = said.partition(marker) if marker else (said, "", "")
        ended = bool(mark) or ids[-1] in ends
        return (
            laid_out([{"role": "user", "content": text.strip()}], tokenizer) if ended and _asks(text, opening) else None
        )

    return Writing(turns, WRITTEN, ends, read)


def _behind(before: Sequence[int], ids: Sequence[int], tokenizer: Any) -> str:
    """The text of ids behind others: some tokenizers drop a space where a text begins."""
    first, both = (tokenizer.decode(part, skip_special_tokens=True) for part in (list(before), [*before, *ids]))
    return str(both[len(first) :])


def _asks(text: str, opening: Opening) -> bool:
    """Whether a text is whole and long enough."""
    new = text[len(opening.said) :]
    return "\ufffd" not in text and sum(letter.isalpha() for letter in new) >= FEWEST_LETTERS


def _around_the_user(tokenizer: Any) -> tuple[str, str]:
    """A chat as its template lays it out, before the user's words and after them. Raises OptionError."""
    try:
        message = {"role": "user", "content": _STANDIN}
        text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the checkpoint's
        raise OptionError(
            f"the tokenizer's chat template cannot lay out a question ({type(error).__name__}: {error}); correct it in the "
            "target's folder, or give answers with --answers"
        ) from error
    before, found, after = text.partition(_STANDIN)
    if not found or _STANDIN in after:
        raise OptionError(
            "the tokenizer's chat template does not show a user's words once, as they are, so that the target cannot write "
            "prompts; give some with --prompts, or answers with --answers"
        )
    return before, after


def _encoded(tokenizer: Any, text: str) -> list[int]:
    """Token ids; a space at the end belongs to the word that follows."""
    return list(tokenizer(text.rstrip(" "), add_special_tokens=False)["input_ids"])
