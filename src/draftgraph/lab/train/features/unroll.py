"""Steps of a feature drafter over whole texts at once, as it takes them when it drafts.

In step 1 row t reads the token t and the target's features of t − 1. In step j it reads the token t + j − 1, and its own output
of step j − 1. Its keys are those of step 1 up to row t, whose features are the target's, and its own of later steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from draftgraph.backends.cache_argument import cache_argument
from draftgraph.backends.features import FeatureNetwork
from draftgraph.backends.taps import tapped


def steps(net: FeatureNetwork, features: torch.Tensor, embedded: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Outputs f[b, T, d] of `count` steps; row t of step j speaks of the token t + j.

    features  f[b, T, features] of every token. embedded  f[b, T, d], the target's embeddings of the tokens.
    """
    length = features.shape[1]
    decoder = net.core.get_decoder()
    cache_name, cache = cache_argument(decoder.forward), DynamicCache()
    above = nn.functional.pad(features[:, :-1], (0, 0, 1, 0))  # nothing stands above row 0
    residual = net.committed(above, embedded)
    positions = torch.arange(length, device=features.device)[None]
    causal = torch.ones(length, length, dtype=torch.bool, device=features.device).tril()
    if not net.reads_first:
        causal[1:, 0] = False  # row 0 stands for nothing
    visible, own = causal, torch.eye(length, dtype=torch.bool, device=features.device)
    outputs: list[torch.Tensor] = []
    for step in range(count):
        if step:
            residual = net.drafted(outputs[-1], embedded.roll(-step, dims=1))  # rows beyond the end are never learnt
            visible = torch.cat([visible, own], dim=1)
        mask = torch.zeros(visible.shape, dtype=residual.dtype, device=residual.device)
        mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)
        output = decoder(
            inputs_embeds=residual,
            attention_mask=mask[None, None],
            position_ids=positions + step,
            use_cache=True,
            **{cache_name: cache},
        ).last_hidden_state
        outputs.append(output)
    return outputs


@torch.no_grad()
def read_target(
    target: PreTrainedModel, tokens: torch.Tensor, taps: tuple[str, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The target's logits f[b, T, …], features f[b, T, features] and embeddings f[b, T, d] of i64[b, T]."""
    with tapped(target, taps) as states:
        logits = target(input_ids=tokens, use_cache=False).logits
    features = torch.cat([states[name] for name in taps], dim=-1)
    return logits, features, cast(torch.Tensor, cast(Any, target.get_input_embeddings())(tokens))


@contextmanager
def with_head(target: PreTrainedModel, head: nn.Module) -> Iterator[None]:
    """The target with another head for a while: what it does to logits beside the head stays."""
    whole = target.get_output_embeddings()
    target.set_output_embeddings(head)
    try:
        yield
    finally:
        target.set_output_embeddings(whole)
