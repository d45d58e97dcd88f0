"""The network of DFlash drafters (arXiv 2602.06036): one pass gives the laws of a whole block of tokens.

    c_t = norm(fc · concat(taps of t))      of every committed token; each block makes keys and values of it, nothing else
    rows = [last committed token, mask token × (B − 1)], which read all c, and each other
    logits = head(final norm(rows)), the target's head

Row i knows the committed text alone, so that tokens drawn from all rows are independent: the law of each is that of its row.
DSpark adds to the logits of a row a bias that the token before it gives, w₂ · w₁[token]; then drawing goes from left to right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import PretrainedConfig

from draftgraph.backends.features import FeatureShape, build_core
from draftgraph.backends.taps import decoder_layers


@dataclass(frozen=True)
class BlockShape:
    """size       rows of a block, B.
    mask       the token that stands for those that are not known.
    first      the first row that speaks of a token: 1, or 0 where the last committed token's row does as well.
    causal     whether a row of the block reads those before it only.
    scale      of embeddings. multiplier  of logits. cap  of logits, smooth; 0: none.
    rank       of the bias by the token before; 0: there is none.
    """

    size: int
    mask: int
    first: int = 1
    causal: bool = False
    scale: float = 1.0
    multiplier: float = 1.0
    cap: float = 0.0
    rank: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that a block speaks of."""
        return self.size - self.first


@dataclass
class Rows:
    """numbers  i64[n] of the rows of a pass that belong to blocks."""

    numbers: torch.Tensor


class ContextBlock(nn.Module):
    """A decoder block of transformers whose other rows, those of committed tokens, only give keys and values."""

    def __init__(self, block: Any, rows: Rows) -> None:
        super().__init__()
        self.self_attn, self.mlp = block.self_attn, block.mlp
        self.input_layernorm, self.post_attention_layernorm = block.input_layernorm, block.post_attention_layernorm
        self.rows = rows

    def forward(self, hidden_states: torch.Tensor, **given: Any) -> torch.Tensor:
        own = self.rows.numbers
        inner, read = hidden_states[:, own], hidden_states.clone()
        read[:, own] = self.input_layernorm(inner)
        inner = inner + self.self_attn(hidden_states=read, **given)[0][:, own]
        inner = inner + self.mlp(self.post_attention_layernorm(inner))
        output = hidden_states.clone()
        output[:, own] = inner
        return output


class BlockNet(nn.Module):
    """shape  hidden states and entries of the head. block  how it drafts. core  gives outputs in the place of logits."""

    def __init__(self, shape: FeatureShape, block: BlockShape, config: PretrainedConfig) -> None:
        super().__init__()
        self.shape, self.block, own = shape, block, config.hidden_size
        self.fc = nn.Linear(shape.features, own, bias=False)
        self.hidden_norm = nn.RMSNorm(own, eps=config.rms_norm_eps)
        self.core = build_core(config, 1)
        self.core.set_output_embeddings(nn.Identity())
        self.rows = Rows(torch.empty(0, dtype=torch.long))
        layers = decoder_layers(self.core)[1]
        for number in range(len(layers)):
            layers[number] = ContextBlock(layers[number], self.rows)
        self.head = nn.Linear(own, shape.tokens, bias=False)
        self.before = nn.Embedding(config.vocab_size, block.rank) if block.rank else None
        self.bias = nn.Linear(block.rank, shape.tokens, bias=False) if block.rank else None

    @property
    def norm(self) -> nn.Module:
        return cast(nn.Module, decoder_layers(self.core)[0].norm)

    def context(self, features: torch.Tensor) -> torch.Tensor:
        """What rows of committed tokens read, f[n, d], of features f[n, features]."""
        return cast(torch.Tensor, self.hidden_norm(self.fc(features.to(self.fc.weight.dtype))))

    def logits(self, outputs: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Logits f[n, K] of outputs f[n, d] behind the tokens `before` i64[n]."""
        logits = functional.linear(outputs, self.head.weight) * self.block.multiplier
        if self.block.cap > 0:
            logits = torch.tanh(logits / self.block.cap) * self.block.cap
        if self.before is not None and self.bias is not None:
            logits = logits + self.bias(self.before(before))
        return logits
