"""An early exit as a backend: a causal LM whose head has a part of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from draftgraph.backends.base import Feed, Scored
from draftgraph.backends.exit_net import ExitNet
from draftgraph.backends.features import over_vocabulary
from draftgraph.backends.torch_model import TorchModel


class ExitModel(TorchModel):
    """A `CausalLM` over the target's vocabulary; tokens outside of the head have the logit -inf.

    It has cells of its own for the layers that it runs, and reads every committed token itself. So it needs no hidden states of
    the target, drafts in the first round, and keeps the rows of accepted tokens.

    net  the network. tokens  i64[K], the target's id of every entry of the head.
    """

    taps: ClassVar[Sequence[str]] = ()
    forks: ClassVar[bool] = False
    depths: ClassVar[int | None] = None
    draws: ClassVar[Sequence[str]] = ("fixed", "sampled")

    def __init__(self, net: ExitNet, tokens: torch.Tensor) -> None:
        super().__init__(net.core)
        self.net, self.tokens = net, tokens

    @property
    def model_name(self) -> str:
        return f"exit after layer {self.net.shape.layer}"

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        scored = super().forward(feeds, taps)
        return [Scored(over_vocabulary(rows.logits, self.tokens, self.vocab_size), rows.taps) for rows in scored]
