"""Networks of one block over tokens and the target's last hidden state, which a few options tell apart.

Row t of a text reads the token at t, and the feature of t − 1: the target's, or what the row above put out.

    x = fusion(norm(embedding of the token), norm(feature))
    state = block(x), then the final norm;  logits = heads(state)

EAGLE (arXiv 2401.15077), HASS (2408.15766), FSPAD, GRIFFIN and Chimera are forms of it; `fusion.py` and `heads.py` have the
options. The block is one of Llama of the target's sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig

from draftgraph.backends.features import FeatureShape, OwnNetwork, build_core
from draftgraph.backends.fusion import FUSIONS
from draftgraph.backends.heads import HEADS
from draftgraph.backends.paired import block_of
from draftgraph.backends.taps import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from draftgraph.backends.ends import Ends


@dataclass(frozen=True)
class Parts:
    """What one row is made of, in numbers.

    width   of what it reads, d. apart  of what its keys are made of, if that is something else.
    halves  outputs of width d. passed  numbers that go past the block.
    """

    width: int
    apart: int
    halves: int
    passed: int


class FusedBlock(nn.Module):
    """A block of Llama over rows f[b, n, width + apart + passed], which puts out f[b, n, halves · width + passed]."""

    def __init__(self, block: Any, parts: Parts) -> None:
        super().__init__()
        self.self_attn, self.mlp, self.parts = block.self_attn, block.mlp, parts
        self.input_layernorm, self.post_attention_layernorm = block.input_layernorm, block.post_attention_layernorm
        down = self.mlp.down_proj
        self.mlp.down_proj = nn.Linear(down.in_features, parts.halves * down.out_features, bias=down.bias is not None)
        if parts.apart:
            self.apart_norm = nn.RMSNorm(parts.apart, eps=1e-6)
            for name, part in (("q", 0), ("k", 1), ("v", 1)):
                setattr(self.self_attn, f"{name}_proj", OfPart(getattr(self.self_attn, f"{name}_proj"), part))

    def forward(self, hidden_states: torch.Tensor, **given: Any) -> torch.Tensor:
        parts = self.parts
        read, apart, passed = torch.split(hidden_states, [parts.width, parts.apart, parts.passed], dim=-1)
        normed = self.input_layernorm(read)
        if parts.apart:
            normed = torch.cat([normed, self.apart_norm(apart)], dim=-1)
        mixed = read + self.self_attn(hidden_states=normed, **given)[0]
        added = self.mlp(self.post_attention_layernorm(mixed))
        return torch.cat([mixed.repeat(1, 1, parts.halves) + added, passed], dim=-1)


class OfPart(nn.Module):
    """A projection of one part of what it is given, of two of the same width."""

    def __init__(self, projection: nn.Linear, part: int) -> None:
        super().__init__()
        self.projection, self.part = projection, part

    def forward(self, both: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.projection(both.chunk(2, dim=-1)[self.part]))


class PartNorms(nn.Module):
    """A norm of each half of a row; what is passed stays."""

    def __init__(self, parts: Parts, eps: float) -> None:
        super().__init__()
        self.sizes = [parts.width] * parts.halves + [parts.passed]
        self.norms = nn.ModuleList(nn.RMSNorm(parts.width, eps=eps) for _ in range(parts.halves))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        *halves, passed = torch.split(rows, self.sizes, dim=-1)
        normed = [norm(half) for norm, half in zip(self.norms, halves, strict=True)]
        return torch.cat([*normed, passed.to(normed[0].dtype)], dim=-1)


class FusedNet(OwnNetwork):
    """shape  its sizes; it has one tap. fuse, heads  names of its options.

    core  a causal LM of one `FusedBlock`, with heads of K entries; its own embeddings are not used.
    """

    def __init__(self, shape: FeatureShape, config: PretrainedConfig, fuse: str, heads: str) -> None:
        super().__init__()
        d, own = shape.width, block_of(config)
        self.shape, self.fuse, self.heads_name = shape, fuse, heads
        self.feature_norm, self.token_norm = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.fusion = FUSIONS[fuse](d)
        self.core = build_core(own, shape.tokens)
        self.core.set_output_embeddings(HEADS[heads](d, shape.tokens))
        self.parts = Parts(d, d if self.fusion.apart else 0, self.heads.halves, self.heads.passed)
        decoder, layers = decoder_layers(self.core)
        layers[0] = FusedBlock(layers[0], self.parts)
        decoder.norm = PartNorms(self.parts, own.rms_norm_eps)

    @property
    def form(self) -> tuple[str, str]:
        return self.fuse, self.heads_name

    @property
    def window(self) -> int:
        return self.fusion.window

    @property
    def heads(self) -> Any:
        return self.core.get_output_embeddings()

    @property
    def head(self) -> nn.Module:
        return cast(nn.Module, self.heads.borrowed)

    def carried(self, outputs: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.heads.carried(outputs))

    def committed(self, features: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        feature = features.to(self.token_norm.weight.dtype)
        return self._rows(feature, embedded, self.heads.first(feature))

    def drafted(self, outputs: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        return self._rows(self.heads.carried(outputs), embedded, self.heads.later(outputs))

    def _rows(self, feature: torch.Tensor, embedded: torch.Tensor, passed: torch.Tensor) -> torch.Tensor:
        tokens = torch.split(embedded.to(self.token_norm.weight.dtype), self.shape.width, dim=-1)
        normed = self.feature_norm(feature)
        read = self.fusion(torch.cat([self.token_norm(token) for token in tokens], dim=-1), normed)
        apart = normed[..., : self.parts.apart]
        return torch.cat([read, apart.to(read.dtype), passed.to(read.dtype)], dim=-1)

    @torch.no_grad()
    def start_from(self, target: PreTrainedModel, tokens: torch.Tensor) -> None:
        """Begin with the parts of the target's last layer that have the same names and shapes; the rest is noise."""
        self.fusion.start()
        decoder, layers = decoder_layers(target)
        theirs = {name.replace(".projection", ""): weight for name, weight in layers[-1].named_parameters()}
        for name, weight in decoder_layers(self.core)[1][0].named_parameters():
            other = theirs.get(name.replace(".projection", ""))
            if other is None:
                continue
            if name == "mlp.down_proj.weight" and other.shape[0] * self.parts.halves == weight.shape[0]:
                weight.copy_(other.repeat(self.parts.halves, 1))
            elif other.shape == weight.shape:
                weight.copy_(other)
        final = getattr(getattr(decoder, "norm", None), "weight", None)  # other classes name it otherwise
        norms = cast(PartNorms, decoder_layers(self.core)[0].norm).norms
        for norm in norms if isinstance(final, torch.Tensor) else ():
            cast(nn.RMSNorm, norm).weight.copy_(cast(torch.Tensor, final))
        self.heads.start(target, tokens)

    def share_head(self, target: Ends, tokens: torch.Tensor) -> None:
        self.heads.share(target, tokens)
