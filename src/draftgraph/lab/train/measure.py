"""How good the two models are on held-out text, and how well they agree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from draftgraph.lab.train.losses import logits_of

WINDOW, ROWS = 512, 8


@dataclass(frozen=True)
class PairReport:
    """Held-out figures; agreement and overlap are at temperature 1 on held-out text."""

    target_nats_per_token: float
    target_bits_per_byte: float
    drafter_nats_per_token: float
    drafter_bits_per_byte: float
    greedy_agreement: float
    overlap: float


@torch.no_grad()
def measure_pair(
    target: LlamaForCausalLM, drafter: LlamaForCausalLM, held_out: Tensor, bytes_per_token: float
) -> PairReport:
    """Both models on all of the held-out text, every token predicted from the text before it in its window.

    Overlap is the mean over positions of the sum over tokens of min(p, q): the chance that a sampled draft token is
    accepted. Agreement is how often both models find the same token most likely.
    """
    totals = torch.zeros(4, dtype=torch.float64)
    count = 0
    for batch in held_out_batches(held_out):
        p = logits_of(target, batch).log_softmax(-1)
        q = logits_of(drafter, batch).log_softmax(-1)
        gold = batch[:, 1:, None]
        totals += torch.stack(
            [
                -p.gather(-1, gold).double().sum(),
                -q.gather(-1, gold).double().sum(),
                (p.argmax(-1) == q.argmax(-1)).double().sum(),
                torch.minimum(p, q).exp().double().sum(),
            ]
        )
        count += gold.numel()
    target_nats, drafter_nats, agreement, overlap = (totals / count).tolist()
    per_byte = 1.0 / (bytes_per_token * math.log(2.0))
    return PairReport(
        target_nats,
        target_nats * per_byte,
        drafter_nats,
        drafter_nats * per_byte,
        agreement,
        overlap,
    )


def held_out_batches(tokens: Tensor) -> Iterator[Tensor]:
    """The held-out text cut into windows that follow each other, i64[<=rows, length + 1]."""
    length = min(WINDOW, tokens.numel() - 1)
    count = (tokens.numel() - 1) // length
    cut = torch.stack([tokens[i * length : (i + 1) * length + 1] for i in range(count)])
    yield from torch.split(cut, ROWS)
