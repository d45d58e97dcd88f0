"""What a diagnosis is made on: the user's prompts or bundled ones, laid out as a chat where the model is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from draftgraph.errors import OptionError
from draftgraph.lab.doctor.checks import Checkup
from draftgraph.lab.texts import laid_out

PROMPTS = (
    "Once upon a time there was a little girl who",
    "def read_lines(path):\n    ",
    "The three most important reasons why the project was late are:\n1.",
    "Question: How do plants turn light into food?\nAnswer:",
    'class Queue:\n    """A first-in, first-out queue."""\n\n    def __init__(self):\n',
    "Dear colleagues,\n\nthank you for coming to the meeting on Monday. As we agreed,",
)
"""What is continued where the user gives nothing."""
MESSAGES = (
    "Tell me a short story about a little girl and a fox.",
    "Write a Python function that reads the lines of a file into a list.",
    "Name three reasons why projects are late.",
    "How do plants turn light into food?",
    "Write a Python class for a first-in, first-out queue, with docstrings.",
    "Write a letter to colleagues that thanks them for coming to a meeting.",
)
"""What is asked where the user gives nothing and the tokenizer has a chat template."""
KINDS = "stories, code, lists, answers, letters"


@dataclass(frozen=True)
class Prompts:
    """Token ids of the prompts. source  where their texts come from. chat  whether a chat template laid them out."""

    ids: Sequence[Sequence[int]]
    source: str
    chat: bool

    def __str__(self) -> str:
        count = f"{len(self.ids)} prompt{'' if len(self.ids) == 1 else 's'}"
        how = "each as a message, laid out by the tokenizer's chat template" if self.chat else "continued as they are"
        return f"{count}: {self.source}; {how}"

    def to_dict(self) -> dict[str, Any]:
        return {"count": len(self.ids), "source": self.source, "chat": self.chat}


def encode_prompts(checkup: Checkup, texts: Sequence[str], source: str, chat: bool | None, tokens: int) -> Prompts:
    """The prompts as token ids, or their ends if the window has no room for all of one and `tokens` new ones.

    texts   of the user, from `source`; bundled ones without. chat  None lays out a chat if the tokenizer has a template.
    Raises OptionError without a tokenizer or template, for an empty prompt, or for too small a window.
    """
    tokenizer = checkup.target.tokenizer
    if tokenizer is None:
        raise OptionError("the target has no tokenizer files, so no prompt can be read; add them to its folder")
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if chat and not has_template:
        raise OptionError("--chat needs a chat template, and the target's tokenizer has none; leave it out")
    chat = has_template if chat is None else chat
    sides = (checkup.target, *([checkup.drafter] if checkup.drafter else ()))
    room = min([side.window for side in sides if side.window], default=2**20) - tokens
    if room < 1:
        raise OptionError(
            f"a context window of {room + tokens} tokens leaves no room for a prompt and {tokens} new ones"
        )
    chosen = texts or (MESSAGES if chat else PROMPTS)
    if chat:
        prompts = [laid_out([{"role": "user", "content": text}], tokenizer)[-room:] for text in chosen]
    else:
        prompts = [list(tokenizer(text)["input_ids"])[-room:] for text in chosen]
    if not all(prompts):
        raise OptionError("a prompt is empty; write text as your users write it")
    return Prompts(prompts, source if texts else f"bundled with draftgraph ({KINDS})", chat)
