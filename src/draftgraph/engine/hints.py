"""Advice that an engine gives once, at WARNING on the logger "draftgraph".

A log line, and no Python warning: advice must not end a program that turns warnings into errors. To be rid of it, write
`logging.getLogger("draftgraph").setLevel(logging.ERROR)`.
"""

from __future__ import annotations

import logging
from typing import Any

from draftgraph.engine.chat import has_template, markers

CHAT = (
    "the tokenizer has a chat template, and this prompt was not made by it. A model that was trained to chat answers better to "
    "engine.chat(messages), on the command line to --chat; to continue a plain text, go on as you do"
)


class Hints:
    """The advice of one engine, by topic."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def give(self, topic: str, advice: str | None) -> None:
        """Log advice, if there is any, and if none was given on this topic."""
        if advice is not None and topic not in self._given:
            self._given.add(topic)
            logging.getLogger("draftgraph").warning("draftgraph: %s", advice)

    def on_prompt(self, prompt: Any, tokenizer: Any | None) -> None:
        """Say that a chat model reads another form of prompt, if `prompt` is a text without a trace of that form."""
        if "chat" in self._given or not isinstance(prompt, str) or not has_template(tokenizer):
            return
        marked = markers(tokenizer)
        if marked and not any(marker in prompt for marker in marked):
            self.give("chat", CHAT)
