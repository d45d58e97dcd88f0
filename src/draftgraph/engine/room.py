"""How many tokens fit behind a prompt."""

from __future__ import annotations

from draftgraph.errors import PromptError


def room(prompt: int, asked: int, window: int | None) -> int:
    """Tokens that may be generated after a prompt of `prompt` tokens, of those that were asked for.

    window  positions of the target; None: any number.

    Raises PromptError where the prompt leaves no room.
    """
    if window is not None and prompt >= window:
        raise PromptError(
            f"the prompt has {prompt} tokens and the target's context window is {window}; "
            f"at most {window - 1} leave room for an answer. Shorten the prompt"
        )
    return asked if window is None else min(asked, window - prompt)
