"""GliDe's network (arXiv 2402.02082): a small language model that also attends to the target's keys and values.

    r = W norm(embedding of the token)
    r = r + self attention(r);  r = r + cross attention(r);  r = r + units(r)
    logits = head(final norm(r))

The keys and values of the cross attention are those that a layer of the target has cached. Row t brings those of t − 1 along, so
that a row reads the text before the last committed token, which the target has not read yet. Drafted rows bring none.
A cell without keys is not read, and a row that reads none gets nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import PretrainedConfig
from transformers.cache_utils import Cache

from draftgraph.backends.features import FeatureShape, OwnNetwork, build_core, part_of_head
from draftgraph.backends.fusion import START
from draftgraph.backends.paired import block_of
from draftgraph.backends.prepared import ROPE_KINDS, turned
from draftgraph.backends.taps import decoder_layers
from draftgraph.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from draftgraph.backends.ends import Ends

CROSS, TOKENS = "cross", "token"
"""Names of the network, and of the same one whose cross attention is cut."""


class SelfPart(nn.Module):
    """The first half of a block: rows f[b, n, d + keys and values] attend to each other."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.self_attn, self.norm = block.self_attn, block.input_layernorm
        self.width = block.hidden_size

    def forward(self, hidden_states: torch.Tensor, seen: torch.Tensor | None = None, **given: Any) -> torch.Tensor:
        read, held = hidden_states[..., : self.width], hidden_states[..., self.width :]
        read = read + self.self_attn(hidden_states=self.norm(read), **given)[0]
        return torch.cat([read, held.to(read.dtype)], dim=-1)


class CrossPart(nn.Module):
    """The second half: rows attend to keys and values that they have brought along, and are changed one by one.

    cut  whether they attend to nothing.
    """

    def __init__(self, block: Any, cut: bool) -> None:
        super().__init__()
        attention = block.self_attn
        self.width, self.head_dim, self.scale = block.hidden_size, attention.head_dim, attention.scaling
        self.mlp, self.norm, self.number, self.cut = block.mlp, block.post_attention_layernorm, 1, cut
        if not cut:
            self.cross_norm = nn.RMSNorm(self.width, eps=1e-6)
            inner = attention.q_proj.out_features
            self.queries = nn.Linear(self.width, inner, bias=False)
            self.out = nn.Linear(inner, self.width, bias=False)

    def forward(self, hidden_states: torch.Tensor, seen: torch.Tensor | None = None, **given: Any) -> torch.Tensor:
        """seen  bool[n, cells]: which cells a row may read; None: those that the attention mask shows."""
        read, held = hidden_states[..., : self.width], hidden_states[..., self.width :]
        if not self.cut:
            read = read + self._attended(self.cross_norm(read), held, seen, given)
        return cast(torch.Tensor, read + self.mlp(self.norm(read)))

    def _attended(
        self, normed: torch.Tensor, held: torch.Tensor, seen: torch.Tensor | None, given: dict[str, Any]
    ) -> torch.Tensor:
        keys, values = (self._heads(part) for part in held.chunk(2, dim=-1))
        cache = next((part for part in given.values() if isinstance(part, Cache)), None)
        if cache is not None:
            keys, values = cache.update(keys, values, self.number)
        cosines, sines = given["position_embeddings"]
        queries = turned(self._heads(self.queries(normed)), (cosines[:, None], sines[:, None]))
        visible = seen if seen is not None else _shown(given.get("attention_mask"), queries, keys)
        visible = visible & (keys != 0).any(dim=-1).any(dim=1)[:, None, None]
        hidden = torch.zeros(visible.shape, dtype=queries.dtype, device=queries.device)
        hidden.masked_fill_(~visible, torch.finfo(hidden.dtype).min)
        mixed = functional.scaled_dot_product_attention(
            queries, keys.to(hidden), values.to(hidden), attn_mask=hidden, scale=self.scale, enable_gqa=True
        )
        mixed = torch.where(visible.any(dim=-1, keepdim=True), mixed, 0.0)
        return cast(torch.Tensor, self.out(mixed.transpose(1, 2).flatten(2)))

    def _heads(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(*rows.shape[:-1], -1, self.head_dim).transpose(1, 2)


def _shown(mask: torch.Tensor | None, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """bool[b, 1, n, cells] which cells an additive mask shows; rows behind each other without one."""
    if mask is None:
        shape = queries.shape[2], keys.shape[2]
        return torch.ones(shape, dtype=torch.bool, device=keys.device).tril(shape[1] - shape[0])[None, None]
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


class CrossNet(OwnNetwork):
    """shape  its taps are keys and values of a layer. fuse  `CROSS`, or `TOKENS` for the same without cross attention.

    Raises ModelError for a target whose queries are not rotated as a whole.
    """

    def __init__(self, shape: FeatureShape, config: PretrainedConfig, fuse: str, heads: str = "one") -> None:
        super().__init__()
        own = _two_parts(config)
        self.shape, self.fuse, d = shape, fuse, shape.width
        self.held = int(own.num_key_value_heads * own.head_dim)
        self.token_norm, self.token = nn.RMSNorm(d, eps=1e-6), nn.Linear(d, d, bias=False)
        self.core = build_core(own, shape.tokens)
        layers = decoder_layers(self.core)[1]
        block = layers[0]
        layers[0], layers[1] = SelfPart(block), CrossPart(block, fuse == TOKENS)

    @property
    def form(self) -> tuple[str, str]:
        return self.fuse, "one"

    @property
    def features(self) -> int:
        return 2 * self.held

    @property
    def head(self) -> nn.Module:
        return cast(nn.Module, self.core.get_output_embeddings())

    def committed(self, features: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        kind = self.token.weight.dtype
        read = self.token(self.token_norm(embedded.to(kind)))
        return torch.cat([read.to(kind), features.to(kind)], dim=-1)

    def drafted(self, outputs: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        return self.committed(outputs.new_zeros(*embedded.shape[:-1], self.features), embedded)

    @torch.no_grad()
    def start_from(self, target: PreTrainedModel, tokens: torch.Tensor) -> None:
        """Begin with what fits of the target's last layer; cross attention begins with its queries, and adds nothing yet."""
        decoder, layers = decoder_layers(target)
        theirs = dict(layers[-1].named_parameters())
        attending, crossing = (cast(Any, part) for part in decoder_layers(self.core)[1])
        pairs = [("self_attn", attending.self_attn), ("input_layernorm", attending.norm)]
        pairs += [("mlp", crossing.mlp), ("post_attention_layernorm", crossing.norm)]
        for prefix, module in pairs:
            for name, weight in module.named_parameters():
                other = theirs.get(f"{prefix}.{name}")
                if other is not None and other.shape == weight.shape:
                    weight.copy_(other)
        queries = theirs.get("self_attn.q_proj.weight")
        if not crossing.cut:
            nn.init.normal_(crossing.out.weight, std=0.02)
            if queries is not None and queries.shape == crossing.queries.weight.shape:
                crossing.queries.weight.copy_(queries)
        final: Any = getattr(getattr(decoder, "norm", None), "weight", None)
        if isinstance(final, torch.Tensor):
            cast(Any, decoder_layers(self.core)[0].norm).weight.copy_(final)
        nn.init.normal_(self.token.weight, std=START * self.shape.width**-0.5)
        self.share_head(target, tokens)

    @torch.no_grad()
    def share_head(self, target: Ends, tokens: torch.Tensor) -> None:
        part = part_of_head(target.get_output_embeddings(), tokens)
        self.core.set_output_embeddings(part.to(self.token.weight.device, self.token.weight.dtype))
        self.head.requires_grad_(False).train(self.training)


def _two_parts(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration of the core, which turns queries as the target does. Raises ModelError."""
    given = config.get_text_config(decoder=True)
    rope = getattr(given, "rope_parameters", None) or {}
    if rope.get("rope_type") not in ROPE_KINDS or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError(
            f"a target of model_type={given.model_type!r} does not turn whole queries by their position alone, as a drafter that "
            "reads its keys must; use another network"
        )
    own = block_of(config)
    own.rope_parameters, own.num_hidden_layers = dict(rope), 2
    return own
