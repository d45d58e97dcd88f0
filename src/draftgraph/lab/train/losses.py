"""What training makes small: the loss on the text, or the distance from another model's probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

Forward = Callable[..., Any]
Objective = Callable[[Forward, Tensor], Tensor]


def forward_of(model: LlamaForCausalLM, compiled: bool) -> Forward:
    """The model, compiled if asked for; shapes are fixed, so dynamic ones would gain nothing."""
    return torch.compile(model, dynamic=False) if compiled else model


def logits_of(forward: Forward, batch: Tensor) -> Tensor:
    """f32[rows, length, V], logits over the vocabulary (last axis), for a batch of windows."""
    return cast(Tensor, forward(input_ids=batch[:, :-1], use_cache=False).logits).float()


def next_token_loss(forward: Forward, batch: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats per token."""
    logits = logits_of(forward, batch)
    return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def distillation_loss(teacher: Forward) -> Objective:
    """The objective that moves the drafter's law q towards the target's law p: KL(p, q), less the entropy of p, which
    training cannot change.
    """

    def loss(forward: Forward, batch: Tensor) -> Tensor:
        with torch.no_grad():
            p = logits_of(teacher, batch).softmax(-1)
        return -(p * logits_of(forward, batch).log_softmax(-1)).sum(-1).mean()

    return loss
