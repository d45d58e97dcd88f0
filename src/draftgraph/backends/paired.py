"""The network of EAGLE-3 drafters (arXiv 2503.01840): a first block that reads a token and a feature side by side.

Row t of a text reads the token at t, and the target's hidden states ("taps") of t − 1; row 0 does not exist:

    g = fc · concat(taps)                              committed rows; norms before it where the checkpoint has them
    g = own output of the row above                    drafted rows
    x = [norm(embedding of the token), norm(g)]        what attention reads, twice as wide as the residual
    r = g, or norm(g)                                  what the residual begins with
    output = blocks(x, r);  logits = head(final norm(output)), over a part of the vocabulary

With `norm_output` the output is the one after the final norm. Class and names of the blocks are those of transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn
from transformers import PretrainedConfig

from draftgraph.backends.features import FeatureNetwork, FeatureShape, build_core, part_of_head
from draftgraph.backends.taps import decoder_layers
from draftgraph.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WIDE = tuple(f"self_attn.{part}_proj.weight" for part in "qkv")


@dataclass(frozen=True)
class Norms:
    """Where a checkpoint has norms.

    before_residual  the residual begins with the normed feature.
    whole            one norm of all taps side by side, before fc.
    each             a norm of every tap, before fc.
    output           the output of a row, which the row below reads, is normed.
    """

    before_residual: bool = False
    whole: bool = False
    each: bool = False
    output: bool = False


class PairedBlock(nn.Module):
    """A decoder block of transformers that reads f[b, rows, 2d]: embeddings, then features."""

    def __init__(self, block: Any, config: PretrainedConfig, before_residual: bool) -> None:
        super().__init__()
        self.self_attn, self.mlp = block.self_attn, block.mlp
        self.input_layernorm, self.post_attention_layernorm = block.input_layernorm, block.post_attention_layernorm
        self.hidden_norm = _norm(config, config.hidden_size)
        self.before_residual = before_residual
        for name in ("q_proj", "k_proj", "v_proj"):
            narrow = getattr(self.self_attn, name)
            wide = nn.Linear(2 * narrow.in_features, narrow.out_features, bias=narrow.bias is not None)
            setattr(self.self_attn, name, wide)

    def forward(self, hidden_states: torch.Tensor, **given: Any) -> torch.Tensor:
        embedded, carried = hidden_states.chunk(2, dim=-1)
        normed = self.hidden_norm(carried)
        residual = normed if self.before_residual else carried
        read = torch.cat([self.input_layernorm(embedded), normed], dim=-1)
        residual = residual + self.self_attn(hidden_states=read, **given)[0]
        return cast(torch.Tensor, residual + self.mlp(self.post_attention_layernorm(residual)))


class PairedNet(FeatureNetwork):
    """shape  its sizes; `shape.width` is that of the target's hidden states. norms  where there are any.

    core  a causal LM whose first block is a `PairedBlock`, with a head of K entries; its own embeddings are not used.
    """

    reads_first: ClassVar[bool] = False

    def __init__(self, shape: FeatureShape, config: PretrainedConfig, norms: Norms) -> None:
        super().__init__()
        self.shape, self.norms, own = shape, norms, config.hidden_size
        self.input_norm = _norm(config, shape.features) if norms.whole else None
        self.fc_norm = nn.ModuleList(_norm(config, shape.width) for _ in shape.taps) if norms.each else None
        self.fc = nn.Linear(shape.features, own, bias=False)
        self.core = build_core(config, shape.tokens)
        decoder, layers = decoder_layers(self.core)
        layers[0] = PairedBlock(layers[0], config, norms.before_residual)
        if not norms.output:  # what the decoder puts out is not normed; the head begins with the norm
            norm, decoder.norm = cast(nn.Module, decoder.norm), nn.Identity()
            self.core.set_output_embeddings(nn.Sequential(norm, self.core.get_output_embeddings()))

    @property
    def norm(self) -> nn.Module:
        """The final norm."""
        head = self.core.get_output_embeddings()
        return cast(nn.Module, decoder_layers(self.core)[0].norm if self.norms.output else head[0])

    @property
    def head(self) -> nn.Linear:
        head = self.core.get_output_embeddings()
        return cast(nn.Linear, head if self.norms.output else head[1])

    @torch.no_grad()
    def start_from(self, target: PreTrainedModel, tokens: torch.Tensor) -> None:
        """Begin as the target's last layer reading its last tap, where their parts have the same shapes; the rest is noise."""
        decoder, layers = decoder_layers(target)
        block: Any = decoder_layers(self.core)[1][0]
        theirs = dict(layers[-1].named_parameters())
        for name, weight in block.named_parameters():
            other = theirs.get(name)
            if name in _WIDE and other is not None and other.shape[1] * 2 == weight.shape[1]:
                weight[:, other.shape[1] :].copy_(other)
            elif name != "input_layernorm.weight" and other is not None and other.shape == weight.shape:
                weight.copy_(other)
        if "input_layernorm.weight" in theirs:
            block.hidden_norm.weight.copy_(theirs["input_layernorm.weight"])
        final = getattr(getattr(decoder, "norm", None), "weight", None)  # other classes name it otherwise
        if isinstance(final, torch.Tensor):
            self.norm.weight.copy_(final)  # type: ignore[operator]
        nn.init.normal_(self.fc.weight, std=0.02)
        self.fc.weight[:, -self.shape.width :] += torch.eye(self.shape.width, device=self.fc.weight.device)
        self.head.weight.copy_(part_of_head(target.get_output_embeddings(), tokens).weight)
        self.head.requires_grad_(False)

    def committed(self, features: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        read = features.to(self.fc.weight.dtype)
        if self.input_norm is not None:
            read = self.input_norm(read)
        if self.fc_norm is not None:
            taps = torch.split(read, self.shape.width, dim=-1)
            read = torch.cat([norm(tap) for norm, tap in zip(self.fc_norm, taps, strict=True)], dim=-1)
        return self.drafted(self.fc(read), embedded)

    def drafted(self, outputs: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        kind = self.fc.weight.dtype
        return torch.cat([embedded.to(kind), outputs.to(kind)], dim=-1)


def block_of(target: PretrainedConfig) -> PretrainedConfig:
    """The configuration of one block of the size of a target's, as every engine reads it. Raises ModelError without one."""
    from transformers import LlamaConfig  # which takes most of a second to import, and not every start needs it

    config = target.get_text_config(decoder=True)
    try:
        heads = config.num_attention_heads
        return LlamaConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_attention_heads=heads,
            num_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            rms_norm_eps=getattr(config, "rms_norm_eps", 1e-6),
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
            rope_theta=(getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0),
            num_hidden_layers=1,
        )
    except AttributeError as error:
        raise ModelError(
            f"a target of model_type={config.model_type!r} does not say the size of a block: {error}"
        ) from error


def _norm(config: PretrainedConfig, width: int) -> nn.Module:
    return nn.RMSNorm(width, eps=config.rms_norm_eps)
