"""What the target says of a text that is given: the log-probability of every token, read piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from draftgraph.backends.base import CacheHandle, CausalLM, Feed
from draftgraph.errors import PromptError
from draftgraph.request.result import Best
from draftgraph.sampling.logprobs import log_probabilities
from draftgraph.types import ROOT

PIECE_ROWS = 128
"""Rows of logits at once: each has as many numbers as the vocabulary has tokens."""


@dataclass(frozen=True)
class Scores:
    """What the target says of every token of a text, given those before it.

    token_ids     the text.
    logprobs      log-probability of each under the target's own softmax; None for the first, which nothing comes before.
    top_logprobs  the best tokens at the position of each, with their log-probabilities, if asked for; None for the first.
    """

    token_ids: list[int]
    logprobs: list[float | None]
    top_logprobs: list[Best | None] | None = None


@torch.inference_mode()
def score(target: CausalLM, ids: Sequence[int], top: int) -> Scores:
    """Read a text; passes of threads that share the target take turns, piece by piece. Raises PromptError if it is too long."""
    if target.context_window is not None and len(ids) > target.context_window:
        raise PromptError(
            f"the text has {len(ids)} tokens and the target's context window is {target.context_window}; shorten it"
        )
    values: list[float | None] = [None]
    best: list[Best | None] = [None]
    text = target.open(len(ids))
    try:
        target.expect(text, len(ids))
        for begin in range(0, len(ids) - 1, PIECE_ROWS):
            end = min(begin + PIECE_ROWS, len(ids) - 1)
            known = log_probabilities(_read(target, text, ids[begin:end]), ids[begin + 1 : end + 1], top)
            values += known.values
            best += known.best
    finally:
        target.close(text)
    return Scores(list(ids), values, best if top else None)


def _read(target: CausalLM, text: CacheHandle, piece: Sequence[int]) -> torch.Tensor:
    """Logits f[len(piece), V] behind every token of a piece, which joins the text."""
    feed = Feed(text, piece[:1], piece[1:], range(ROOT, len(piece) - 2))
    logits = target.forward([feed])[0].logits
    target.keep(text, range(len(piece) - 1))
    return logits
