"""What training makes small: the distance from the target's law over the reduced head, step by step."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from draftgraph.backends.features import FeatureNetwork
from draftgraph.lab.train.features.batches import Batch
from draftgraph.lab.train.features.unroll import read_target, steps, with_head

LATER = 0.8
"""A step counts for so much of the one before it."""


def loss(net: FeatureNetwork, target: PreTrainedModel, head: nn.Module, batch: Batch, count: int) -> torch.Tensor:
    """Mean KL(p, q) in nats over answer rows of `count` steps, later ones counting less.

    head  of the target over the drafter's tokens: p and q are laws over those alone.
    """
    with with_head(target, head):
        logits, features, embedded = read_target(target, batch.tokens, net.shape.taps)
    total = logits.new_zeros((), dtype=torch.float32)
    weights = 0.0
    for step, output in enumerate(steps(net, features, embedded, count)):
        rows = batch.rows(step)
        q = net.logits(output.flatten(0, 1)[rows]).float().log_softmax(-1)
        p = logits.flatten(0, 1)[rows + step].float().log_softmax(-1)
        weight = LATER**step
        total = total + weight * nn.functional.kl_div(q, p, reduction="sum", log_target=True) / max(1, len(rows))
        weights += weight
    return total / weights
