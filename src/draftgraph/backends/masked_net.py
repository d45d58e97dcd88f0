"""The network of masked blocks (SpecDec, arXiv 2203.16487; SpecDiff, arXiv 2408.05636): laws of γ tokens in one pass.

    rows of committed tokens:  r = W (l ⊙ norm(embedding)), which read the rows above them
    row of slot i:             r = s_i, its own query, which reads all committed rows and all slots
    row of a filled slot i:    r = s_i + W (l ⊙ norm(embedding of the token that fills it))
    output = final norm(blocks(r));  logits = head(output), over a part of the vocabulary

Where no slot is filled, each knows the committed text alone, so that tokens drawn from all of them are independent: the law of
each is that of its row. Where others were filled before, a row is the law of its token given those, and of no token alone.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers import PretrainedConfig

from draftgraph.backends.ends import Ends
from draftgraph.backends.features import FeatureShape, TextNetwork, build_core, part_of_head, with_layers
from draftgraph.backends.support import context_window
from draftgraph.backends.taps import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class MaskedShape(FeatureShape):
    """slots   tokens of a block, γ.
    blocks  decoder blocks.
    passes  in which the slots are filled.
    """

    slots: int = 5
    blocks: int = 2
    passes: int = 1


class MaskedNet(TextNetwork):
    """shape  its sizes. core  decoder blocks of the target's kind, which give outputs in the place of logits."""

    shape: MaskedShape

    def __init__(self, shape: MaskedShape, config: PretrainedConfig) -> None:
        super().__init__()
        self.shape = shape
        d, layers = shape.width, config.get_text_config(decoder=True).num_hidden_layers
        self.token_norm = nn.RMSNorm(d, eps=1e-6)
        self.token = nn.Linear(d, d, bias=False)
        self.queries = nn.Parameter(torch.empty(shape.slots, d))
        self.core = build_core(with_layers(config, [min(number, layers - 1) for number in range(shape.blocks)]), 1)
        self.core.set_output_embeddings(nn.Identity())
        self._head = nn.Linear(d, shape.tokens, bias=False)

    @property
    def head(self) -> nn.Module:
        return self._head

    @property
    def last(self) -> int:
        """The last position of the target's window."""
        return (context_window(self.core) or sys.maxsize) - 1

    @torch.no_grad()
    def start_from(self, target: PreTrainedModel, tokens: torch.Tensor) -> None:
        """Begin as the target's first layers and its final norm, with its head over `tokens` i64[K]."""
        decoder, layers = decoder_layers(target)
        own, own_layers = decoder_layers(self.core)
        for number, layer in enumerate(own_layers):
            layer.load_state_dict(layers[min(number, len(layers) - 1)].state_dict())
        embeddings = {id(model.get_input_embeddings()) for model in (target, self.core)}
        for name, module in decoder.named_children():
            if module is not layers and id(module) not in embeddings:
                getattr(own, name).load_state_dict(module.state_dict())
        scale = float(target.get_input_embeddings().weight.float().square().mean().sqrt())
        nn.init.eye_(self.token.weight).mul_(scale)
        nn.init.normal_(self.queries, std=scale)
        self.share_head(target, tokens)

    @torch.no_grad()
    def share_head(self, target: Ends, tokens: torch.Tensor) -> None:
        """Copy the rows of the target's head for `tokens` i64[K], and freeze them."""
        head = part_of_head(target.get_output_embeddings(), tokens)
        self._head = head.to(self.token.weight.device, self.token.weight.dtype).requires_grad_(False)

    def read(self, embedded: torch.Tensor) -> torch.Tensor:
        """What rows of tokens read, f[…, d], of the target's embeddings f[…, d]."""
        return cast(torch.Tensor, self.token(self.token_norm(embedded.to(self.token.weight.dtype))))

    def filled(self, embedded: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """What slots read, f[…, γ, d]. embedded  f[…, γ, d] of their tokens. known  bool[…, γ] which of them have one."""
        return self.queries + self.read(embedded) * known[..., None]

    def steps(self, tokens: torch.Tensor, embedded: torch.Tensor, count: int) -> list[torch.Tensor]:
        """One pass over texts, and a block behind every row. There are no more steps than slots."""
        every = torch.arange(tokens.shape[1], device=tokens.device)
        outputs = self.blocks(embedded, every)
        return [outputs[:, :, step] for step in range(min(count, self.shape.slots))]

    def blocks(self, embedded: torch.Tensor, roots: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs f[b, R, γ, d] of blocks behind some rows of whole texts, in one pass.

        embedded  f[b, T, d], the target's embeddings of the texts. roots i64[R], the rows.
        known     bool[b, R, γ] which slots are filled with the text's own tokens; None: none is.
        """
        length, size = embedded.shape[1], self.shape.slots
        text = torch.arange(length, device=roots.device)
        root, slot = roots.repeat_interleave(size), torch.arange(size, device=roots.device).repeat(len(roots))
        place = root + slot + 1
        slots = self.queries.repeat(len(roots), 1).expand(len(embedded), -1, -1)
        if known is not None:
            given = known.flatten(1) & (place < length)
            slots = slots + self.read(embedded[:, place.clamp(max=length - 1)]) * given[..., None]
        read = torch.cat([self.read(embedded), slots], dim=1)
        above = text[None] <= torch.cat([text, root])[:, None]
        beside = torch.cat([torch.full_like(text, -1), root])[:, None] == root[None]
        visible = torch.cat([above, beside], dim=1)
        mask = torch.zeros(visible.shape, dtype=read.dtype, device=read.device)
        mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)
        outputs: torch.Tensor = self.core.get_decoder()(
            inputs_embeds=read,
            attention_mask=mask[None, None],
            position_ids=torch.cat([text, place]).clamp(max=self.last)[None],
            use_cache=False,
        ).last_hidden_state
        return outputs[:, length:].reshape(len(outputs), len(roots), size, -1)
