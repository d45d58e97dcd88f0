"""What a target does behind its decoder layers, on hidden states that were kept: its head, and what it does to logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from draftgraph.backends.taps import decoder_layers

PROBED = 4
"""Tokens of the text that is tried."""


class Ending:
    """Logits from what the decoder has put out; `kind` is the class of the decoder's output."""

    def __init__(self, target: PreTrainedModel, kind: type) -> None:
        self.target, self.kind = target, kind

    @torch.no_grad()
    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits f[b, T, …] of states f[b, T, d]; of the head that the target has at that moment."""
        decoder, _ = decoder_layers(self.target)
        tokens = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
        with _standing_for(decoder, self.kind(last_hidden_state=states)):
            return cast(torch.Tensor, self.target(input_ids=tokens, use_cache=False).logits)


@torch.no_grad()
def ending_of(target: PreTrainedModel) -> Ending | None:
    """The ending of a target; None if logits are not a function of the decoder's output alone, as far as a trial shows."""
    seen: list[Any] = []
    tokens = torch.arange(PROBED, device=target.device)[None]
    try:
        decoder, _ = decoder_layers(target)
        hook = decoder.register_forward_hook(lambda module, given, output: seen.append(output))
        try:
            logits = target(input_ids=tokens, use_cache=False).logits
        finally:
            hook.remove()
        ending = Ending(target, type(seen[0]))
        again = ending.logits(seen[0][0])
    except Exception:  # whatever a class of models does not like: it is read in the usual way
        return None
    return ending if again.shape == logits.shape and torch.allclose(again, logits) else None


@contextmanager
def _standing_for(module: nn.Module, output: Any) -> Iterator[None]:
    """The module gives this output for a while, whatever it is asked."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = lambda *arguments, **options: output
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if own is not None:
            module.__dict__["forward"] = own
