"""Blocks of small drafters without the machinery around them: fewer and larger products, no hooks, no arguments to pass on.

A pass of a drafter of one block is so short that half of it is spent between products. What is computed here is what the model of
transformers computes; `prepare` compares the two, and gives up where they differ or where a block is of another make.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional

from draftgraph.backends.cells import CellPool
from draftgraph.backends.layer_kinds import LayerKind, layer_kinds
from draftgraph.backends.taps import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROPE_KINDS = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embeddings whose angles depend on the position alone."""
TRIED_ROWS, CLOSE = 5, 1e-3


@dataclass(frozen=True)
class Norm:
    """weight f[d], in float32 at least. eps  is added to the mean square."""

    weight: torch.Tensor
    eps: float

    @classmethod
    def of(cls, module: Any) -> Norm:
        """Raises AttributeError for another make."""
        eps: Any = module.eps if isinstance(module, nn.RMSNorm) else module.variance_epsilon
        weight = module.weight.data
        return cls(weight.to(torch.promote_types(weight.dtype, torch.float32)), float(eps))

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(rows, self.weight.shape, self.weight, self.eps)


class PreparedBlock:
    """A decoder block with gated units and rotary positions. pool_layer  number of its keys and values in the pool."""

    def __init__(self, block: Any, pool_layer: int) -> None:
        """Takes the block's weights over: they become parts of larger ones. Raises AttributeError for another make."""
        attention, mlp = block.self_attn, block.mlp
        self.number, self.head_dim, self.scale = pool_layer, attention.head_dim, attention.scaling
        self.before = Norm.of(block.input_layernorm)
        self.carried = Norm.of(block.hidden_norm) if hasattr(block, "hidden_norm") else None
        self.normed_residual = bool(getattr(block, "before_residual", False))
        self.between = Norm.of(block.post_attention_layernorm)
        self.head_norms = (
            (Norm.of(attention.q_norm), Norm.of(attention.k_norm)) if hasattr(attention, "q_norm") else None
        )
        self.read, self.bias = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.heads = [
            part.out_features // self.head_dim for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        ]
        self.out: nn.Linear = attention.o_proj
        self.units, self.units_bias = _joined(mlp.gate_proj, mlp.up_proj)
        self.down, self.active = mlp.down_proj, cast("Callable[[torch.Tensor], torch.Tensor]", mlp.act_fn)

    def __call__(
        self, rows: torch.Tensor, mask: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], cache: CellPool
    ) -> torch.Tensor:
        """Outputs f[rows, d]. mask f[1, 1, rows, cells], additive. turns  cosines and sines f[rows, 1, head_dim].

        Residual and attention are in float32 at least. Products with weights are in their type.
        """
        residual, normed = self._begin(rows)
        kind = self.read.dtype
        heads = (
            functional.linear(normed.to(kind), self.read, self.bias).view(len(rows), -1, self.head_dim).to(rows.dtype)
        )
        queries, keys, values = torch.split(heads, self.heads, dim=1)
        if self.head_norms is not None:
            queries, keys = self.head_norms[0](queries), self.head_norms[1](keys)
        queries, keys = turned(queries, turns), turned(keys, turns)
        all_keys, all_values = cache.layers[self.number].update(
            keys.transpose(0, 1)[None], values.transpose(0, 1)[None]
        )
        mixed = functional.scaled_dot_product_attention(
            queries.transpose(0, 1)[None], all_keys, all_values, attn_mask=mask, scale=self.scale, enable_gqa=True
        )
        residual = residual + self.out(mixed[0].transpose(0, 1).reshape(len(rows), -1).to(kind))
        gate, up = functional.linear(self.between(residual).to(kind), self.units, self.units_bias).chunk(2, dim=-1)
        added = self.down(self.active(gate) * up)  # of two halves, if there are two heads
        return cast(torch.Tensor, residual.repeat(1, added.shape[1] // residual.shape[1]) + added)

    def _begin(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual, and what attention reads."""
        if self.carried is None:
            return rows, self.before(rows)
        embedded, carried = rows.chunk(2, dim=-1)
        normed = self.carried(carried)
        return (normed if self.normed_residual else carried), torch.cat([self.before(embedded), normed], dim=-1)


class Prepared:
    """The core of a drafter's network, from what its blocks read to outputs and logits."""

    def __init__(self, core: PreTrainedModel) -> None:
        """Raises AttributeError for blocks of another make."""
        decoder, layers = decoder_layers(core)
        self.blocks = [PreparedBlock(layer, number) for number, layer in enumerate(layers)]
        self.norm: Any = decoder.norm
        self.head, self.rotary = core.get_output_embeddings(), decoder.rotary_emb
        self.kind = core.dtype
        self._turns = _table(self.rotary, next(core.parameters()), 0)

    def __call__(
        self,
        rows: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: CellPool,
        wanted: int | torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs f[rows, d], and logits f[wanted, K]. rows f[n, w]; positions i64[n]; wanted  which rows, or how many last."""
        turns, wide = self._at(positions), torch.promote_types(self.kind, torch.float32)
        rows, mask = rows.to(wide), mask.to(wide)
        for block in self.blocks:
            rows = block(rows, mask, turns, cache)
        outputs = self.norm(rows.to(self.kind))
        return outputs, self.head(outputs[-wanted:] if isinstance(wanted, int) else outputs[wanted])

    def _at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        last = int(positions.max())
        if last >= len(self._turns[0]):
            self._turns = _table(self.rotary, self._turns[0], 2 * last + 1)
        cosines, sines = self._turns
        return cosines[positions][:, None], sines[positions][:, None]


def prepare(core: PreTrainedModel) -> Prepared | None:
    """The core prepared; None where its blocks are of another make, or it would compute something else."""
    kinds = layer_kinds(core.config)
    rope = getattr(core.config, "rope_parameters", None) or {}
    if kinds != [LayerKind()] or rope.get("rope_type") not in ROPE_KINDS:
        return None
    try:
        rows = torch.randn(1, TRIED_ROWS, _width(core), generator=torch.Generator().manual_seed(0))
        rows = rows.to(core.device, core.dtype)
        with torch.inference_mode():
            expected = _as_it_is(core, rows)
            prepared = Prepared(core)
            found = _tried(prepared, core, rows)
    except (AttributeError, TypeError, RuntimeError):
        return None
    scale = float(expected.abs().max())
    near = CLOSE if core.dtype in (torch.float32, torch.float64) else 0.05
    return prepared if float((found - expected).abs().max()) <= near * max(scale, 1e-6) else None


def _width(core: PreTrainedModel) -> int:
    first: Any = decoder_layers(core)[1][0]
    return int(first.self_attn.q_proj.in_features)


def _as_it_is(core: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = core(inputs_embeds=rows, use_cache=False).logits[0]
    return logits


def _tried(prepared: Prepared, core: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    """Logits of rows that are read one behind the other, in the first cells of a pool."""
    cache, count = CellPool(len(prepared.blocks)), rows.shape[1]
    cache.capacity = cache.high = count
    cache.begin(range(count), rows.device)
    mask = torch.full((count, count), torch.finfo(core.dtype).min, dtype=core.dtype, device=rows.device).triu(1)
    return prepared(rows[0], mask[None, None], torch.arange(count, device=rows.device), cache, count)[1]


def _joined(*parts: nn.Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One matrix and bias in the place of several, whose own become views of them."""
    matrix = torch.cat([part.weight.data for part in parts])
    for part, rows in zip(parts, torch.split(matrix, [part.out_features for part in parts]), strict=True):
        part.weight.data = rows
    biases = [part.bias for part in parts if part.bias is not None]
    if not biases:
        return matrix, None
    if len(biases) < len(parts):
        raise AttributeError("only some parts have a bias")
    return matrix, torch.cat([bias.data for bias in biases])


def turned(heads: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Heads f[…, head_dim], rotated; cosines and sines f[…, head_dim] of their positions."""
    first, second = heads.chunk(2, dim=-1)
    return heads * turns[0] + torch.cat([-second, first], dim=-1) * turns[1]


def _table(rotary: Any, like: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines f[count, head_dim] of the first positions."""
    positions = torch.arange(max(count, 256), device=like.device)[None]
    cosines, sines = rotary(like.float().reshape(1, -1, 1)[:, :1], positions)
    return cosines[0], sines[0]
