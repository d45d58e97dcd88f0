"""A long text is read piece by piece before a round: one piece a call, so that whoever decodes can do other things in between."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from draftgraph.backends.base import CacheHandle, CausalLM, Feed, Scored


def piece_of(model: CausalLM, text: CacheHandle, unread: Sequence[int]) -> Feed | None:
    """The next piece of a text; None where one pass can read the rest together with a draft.

    text    what the model has cached.
    unread  the tokens that follow it.
    """
    return None if len(unread) <= model.most_rows else Feed(text, unread[: model.most_rows], goes_on=True)


def read_piece(model: CausalLM, text: CacheHandle, unread: Sequence[int], taps: Sequence[str] = ()) -> Scored | None:
    """Read the next piece of a text. None: there is none, see `piece_of`, and nothing is read."""
    piece = piece_of(model, text, unread)
    if piece is None:
        return None
    with torch.inference_mode():
        return model.forward([piece], taps)[0]


def read(model: CausalLM, text: CacheHandle, unread: Sequence[int]) -> None:
    """Read a text to its end, in pieces where it is long."""
    model.expect(text, len(text) + len(unread))
    while read_piece(model, text, unread) is not None:
        unread = unread[model.most_rows :]
    model.forward([Feed(text, unread)])
