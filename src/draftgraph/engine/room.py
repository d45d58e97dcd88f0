"""How many tokens fit behind a prompt."""

from __future__ import annotations

from draftgraph.errors import PromptError


def room(prompt: int, asked: int, window: int | None, drafter_window: int | None) -> int:
    """Tokens that may be generated after a prompt of `prompt` tokens, of those that were asked for.

    window          positions of the target; None: any number.
    drafter_window  positions of the drafter, which does not stop early.

    Raises PromptError where the prompt leaves no room, or the drafter has too little.
    """
    if window is not None and prompt >= window:
        raise PromptError(
            f"the prompt has {prompt} tokens and the target's context window is {window}; "
            f"at most {window - 1} leave room for an answer. Shorten the prompt"
        )
    limit = asked if window is None else min(asked, window - prompt)
    if drafter_window is not None and prompt + limit > drafter_window:
        left = drafter_window - prompt
        what = (
            f"prompt ({prompt}) and max_new_tokens ({limit}) need {prompt + limit} positions, but the drafter's window is "
            f"{drafter_window}; write max_new_tokens={left}"
            if left > 0
            else f"the prompt has {prompt} tokens, beyond the drafter's window of {drafter_window}; shorten it"
        )
        raise PromptError(f"{what}, or use a drafter with a longer window, or drafter='lookup'")
    return limit
