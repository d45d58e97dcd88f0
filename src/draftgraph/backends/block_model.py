"""A block drafter's network as a backend: a pass over what the round committed gives the rows of every depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from draftgraph.backends.base import Feed
from draftgraph.backends.block_net import BlockNet
from draftgraph.backends.blocks import BlockHandle, BlocksModel, handle_of
from draftgraph.backends.fingerprint import fingerprint
from draftgraph.backends.ragged import named


class BlockModel(BlocksModel):
    """Committed tokens are fed with features, as to a `FeatureModel`: the row of a token carries the features of the token above
    it. With them goes a block, which gives outputs for all depths.

    net  the network. tokens  i64[K], the target's id of every entry of the head. embeddings f[V, d], those of the target, raw.
    """

    def __init__(self, net: BlockNet, tokens: torch.Tensor, embeddings: torch.Tensor) -> None:
        super().__init__(net.core, tokens)
        self.net, self.embeddings, self.causal = net, embeddings, net.block.causal

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the target's hidden states that make features."""
        return self.net.shape.taps

    @property
    def depths(self) -> int:
        return self.net.block.tokens

    @property
    def model_name(self) -> str:
        return "block drafter"

    @property
    def fingerprint(self) -> str:
        return f"{fingerprint(self.net)} {self.dtype} {self.net.block} {named(self.model.config._attn_implementation)}"

    def open(self, capacity: int) -> BlockHandle:
        above = torch.zeros(0, self.net.shape.features, device=self.device, dtype=self.dtype)
        return BlockHandle(capacity + self.net.block.size, forgotten=1, above=above)

    def inputs(self, feeds: Sequence[Feed]) -> dict[str, torch.Tensor]:
        parts: list[torch.Tensor] = []
        numbers: list[int] = []
        end = 0
        for feed in feeds:
            count, text = len(feed.committed), handle_of(feed)
            above = torch.nn.functional.pad(text.above[:count], (0, 0, 0, max(0, count - len(text.above))))
            block = self.embeddings[torch.tensor(list(feed.tokens), device=self.device)] * self.net.block.scale
            parts += [self.net.context(above), block.to(self.dtype)]
            numbers += range(end + count, end + feed.num_rows)
            end += feed.num_rows
        self.net.rows.numbers = torch.tensor(numbers, device=self.device)
        return {"inputs_embeds": torch.cat(parts)[None]}

    def read_blocks(self, feeds: Sequence[Feed]) -> None:
        """One pass over the committed tokens of these feeds, and a block behind each."""
        block = self.net.block
        chain = range(-1, block.size - 1)
        whole = [
            Feed(feed.text, feed.committed, [feed.committed[-1], *[block.mask] * (block.size - 1)], chain)
            for feed in feeds
        ]
        for feed, scored in zip(whole, self.pass_over(whole), strict=True):
            text = handle_of(feed)
            text.rows, text.anchor, text.nodes = scored.logits[1 + block.first :], feed.committed[-1], []
            text.above = text.above[len(feed.committed) :]

    def head(self, outputs: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        return self.net.logits(outputs, before)
