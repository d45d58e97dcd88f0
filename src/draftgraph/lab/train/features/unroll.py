"""Steps of a feature drafter over whole texts at once, as it takes them when it drafts.

In step 1 row t reads the token t and the target's features of t − 1. In step j it reads the token t + j − 1, and its own output
of step j − 1. Its keys are those of step 1 up to row t, whose features are the target's, and its own of later steps.

Networks that read the target's keys can take all steps in one pass: rows are cut into blocks, and a row reads the keys of the
blocks before its own. Row t is then step t mod size + 1 of a draft whose last committed token begins the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from draftgraph.backends.cache_argument import cache_argument
from draftgraph.backends.features import FeatureNetwork, TextNetwork, TrainedNetwork
from draftgraph.backends.taps import held_taps, tapped


@dataclass(frozen=True)
class Read:
    """What the target says of a batch: logits f[b, T, K] over the head, features f[b, T, …], embeddings f[b, T, d]."""

    logits: torch.Tensor
    features: torch.Tensor
    embedded: torch.Tensor


def steps(
    net: FeatureNetwork,
    features: torch.Tensor,
    embedded: torch.Tensor,
    count: int,
    block: int = 0,
    wanted: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """Outputs f[b, T, d] of `count` steps; row t of step j speaks of the token t + j.

    features  f[b, T, features] of every token. embedded  f[b, T, d], the target's embeddings of the tokens.
    block     rows of a block, for one pass that stands for all steps; 0: steps are taken one after another.
    wanted    bool[b, T] rows of later steps that are asked for, the others are zeros there; None: all. Only step 1 has to read
              prompts, for later steps read its keys.
    """
    length = features.shape[1]
    decoder = net.core.get_decoder()
    cache_name, cache = cache_argument(decoder.forward), DynamicCache()
    above = nn.functional.pad(features[:, :-1], (0, 0, 1, 0))  # nothing stands above row 0
    embedded = _windows(embedded, net.window)
    residual = net.committed(above, embedded)
    positions = torch.arange(length, device=features.device)[None]
    causal = torch.ones(length, length, dtype=torch.bool, device=features.device).tril()
    if not net.reads_first:
        causal[1:, 0] = False  # row 0 stands for nothing
    visible = causal[None]
    blocks = {"seen": _seen_by_blocks(length, block, features.device)} if block else {}
    outputs: list[torch.Tensor] = []
    for step in range(count):
        if step == 1:
            positions = _places(wanted, length, features.device)
            visible = causal[positions.clamp(max=length - 1)]
        if step:
            read = embedded.roll(-step, dims=1)  # rows beyond the end are never learnt
            residual = net.drafted(_taken(outputs[-1], positions), _taken(read, positions))
            own = torch.eye(positions.shape[1], dtype=torch.bool, device=features.device)
            visible = torch.cat([visible, own.expand(len(visible), -1, -1)], dim=2)
        mask = torch.zeros(visible.shape, dtype=residual.dtype, device=residual.device)
        mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)
        output = decoder(
            inputs_embeds=residual,
            attention_mask=mask[:, None],
            position_ids=positions.clamp(max=length - 1) + step,
            use_cache=True,
            **{cache_name: cache},
            **blocks,
        ).last_hidden_state
        outputs.append(_put(output, positions, length) if step else output)
    return outputs


def _places(wanted: torch.Tensor | None, length: int, device: torch.device) -> torch.Tensor:
    """i64[b, A] numbers of the wanted rows of every text, and `length` behind them, where it has fewer than another."""
    if wanted is None:
        return torch.arange(length, device=device)[None]
    numbers = torch.where(wanted, torch.arange(length), length).sort(dim=1).values
    return numbers[:, : max(1, int(wanted.sum(dim=1).max()))].to(device)


def _taken(rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """f[b, A, d] of f[b, T, d] at i64[b, A]; the last row stands for places beyond the end."""
    inside = places.clamp(max=rows.shape[1] - 1)
    return rows.gather(1, inside[..., None].expand(len(rows), -1, rows.shape[2]))


def _put(rows: torch.Tensor, places: torch.Tensor, length: int) -> torch.Tensor:
    """f[b, T, d] with f[b, A, d] at i64[b, A], and zeros elsewhere."""
    whole = rows.new_zeros(len(rows), length + 1, rows.shape[2])
    return whole.scatter(1, places[..., None].expand(len(rows), -1, rows.shape[2]), rows)[:, :length]


def steps_of(
    net: TrainedNetwork,
    read: Read,
    tokens: torch.Tensor,
    count: int,
    block: int = 0,
    wanted: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """The steps of any network (see `steps`); those that read the text alone take theirs at once."""
    if isinstance(net, TextNetwork):
        return net.steps(tokens, read.embedded, count)
    return steps(cast(FeatureNetwork, net), read.features, read.embedded, count, block, wanted)


def _windows(embedded: torch.Tensor, size: int) -> torch.Tensor:
    """f[b, T, size · d]: of every row the last `size` embeddings up to it, zeros before the text."""
    behind = [nn.functional.pad(embedded, (0, 0, ago, 0))[:, : embedded.shape[1]] for ago in reversed(range(size))]
    return torch.cat(behind, dim=-1) if size > 1 else embedded


def _seen_by_blocks(length: int, block: int, device: torch.device) -> torch.Tensor:
    """bool[T, T]: row i reads cell c, which holds the keys of token c − 1, if that lies in a block before its own."""
    numbers = torch.arange(length, device=device)
    return numbers[None] <= (numbers // block * block)[:, None]


def entries_of(tokens: torch.Tensor, vocab: int) -> torch.Tensor:
    """i64[V] the entry of the head of every token, -1 if it has none; tokens  i64[K]."""
    entries = torch.full((vocab,), -1, device=tokens.device)
    entries[tokens] = torch.arange(len(tokens), device=tokens.device)
    return entries


@torch.no_grad()
def read_target(
    target: PreTrainedModel, tokens: torch.Tensor, taps: tuple[str, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The target's logits f[b, T, …], features f[b, T, features] and embeddings f[b, T, d] of i64[b, T]."""
    held, others = held_taps(taps, target.config.get_text_config(decoder=True).num_hidden_layers)
    cache: dict[str, Any] = {cache_argument(target.forward): DynamicCache()} if held else {}
    with tapped(target, others) as states:
        logits = target(input_ids=tokens, use_cache=bool(held), **cache).logits
    for (layer, part), name in held.items():
        cached: Any = next(iter(cache.values())).layers[layer]
        states[name] = (cached.keys, cached.values)[part].transpose(1, 2).flatten(2)
    features = torch.cat([states[name] for name in taps], dim=-1) if taps else logits.new_zeros(*tokens.shape, 0)
    return logits, features, embedded_of(target, tokens)


@torch.no_grad()
def embedded_of(target: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """The target's embeddings f[b, T, d] of i64[b, T]."""
    return cast(torch.Tensor, cast(Any, target.get_input_embeddings())(tokens))


@contextmanager
def with_head(target: PreTrainedModel, head: nn.Module) -> Iterator[None]:
    """The target with another head for a while: what it does to logits beside the head stays."""
    whole = target.get_output_embeddings()
    target.set_output_embeddings(head)
    try:
        yield
    finally:
        target.set_output_embeddings(whole)
