"""The target's hidden states around mismatches, and the drafter's first mismatch with an answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.backends.prefill import read_piece
from draftgraph.lab.judge.journal import Mismatch
from draftgraph.types import ROOT

ROWS = 32
"""Rows of the drafter that are read at once: mismatches are near, and rows behind them are of no use."""


@torch.inference_mode()
def first_mismatch(
    drafter: CausalLM, vocab: int, prompt: Sequence[int], answer: Sequence[int], border: int
) -> tuple[int, int] | None:
    """The first place from `border` on where the drafter's best token is not the answer's, and that token. None: nowhere.

    vocab  tokens that the target knows.
    """
    if border >= len(answer):
        return None
    text, unread = drafter.open(len(prompt) + len(answer)), [*prompt, *answer[:border]]
    try:
        drafter.expect(text, len(unread))
        while read_piece(drafter, text, unread) is not None:
            unread = unread[drafter.most_rows :]
        for first in range(border, len(answer), ROWS):
            wanted = answer[first : first + ROWS]
            # The rows behind `unread` and behind all wanted tokens but the last say what the drafter wanted instead.
            chain = wanted[:-1]
            drafter.expect(text, len(text) + len(unread))
            feed = Feed(text, unread, chain, list(range(ROOT, len(chain) - 1)))
            best = drafter.forward([feed])[0].logits[:, :vocab].argmax(dim=1).tolist()
            for place, (token, own) in enumerate(zip(wanted, best, strict=True), first):
                if token != own:
                    return place, own
            drafter.keep(text, range(len(chain)))
            unread = [wanted[-1]]
        return None
    finally:
        drafter.close(text)


@torch.inference_mode()
def states_around(
    target: CausalLM, tap: str, prompt: Sequence[int], answer: Sequence[int], mismatches: Sequence[Mismatch]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states f32[k, width] before and behind the drafter's tokens, each after the answer up to its place.

    answer  the last one: what was changed in it for a mismatch lies at its place or behind it.
    """
    text, before, behind = target.open(len(prompt) + len(answer) + 1), [], []
    try:
        read = 0
        for mismatch in mismatches:
            whole = [*prompt, *answer[: mismatch.place]]
            unread = whole[read:]
            target.expect(text, len(whole))
            while read_piece(target, text, unread) is not None:
                unread = unread[target.most_rows :]
            rows = target.forward([Feed(text, unread, [mismatch.token], [ROOT])], [tap])[0].taps[tap]
            target.keep(text, [])
            before.append(rows[-2].float().cpu())
            behind.append(rows[-1].float().cpu())
            read = len(whole)
        return torch.stack(before), torch.stack(behind)
    finally:
        target.close(text)


@torch.inference_mode()
def states_of(target: CausalLM, tap: str, tokens: Sequence[int]) -> torch.Tensor:
    """Hidden states f32[n, width] of a short text."""
    text = target.open(len(tokens))
    try:
        target.expect(text, len(tokens))
        return target.forward([Feed(text, tokens)], [tap])[0].taps[tap].float().cpu()
    finally:
        target.close(text)
