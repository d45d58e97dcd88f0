"""A block drafter's network as a backend: a pass over what the round committed gives the rows of every depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch

from draftgraph.backends.base import CacheHandle, Feed, Scored
from draftgraph.backends.block_net import BlockNet
from draftgraph.backends.feature_model import FeatureHandle
from draftgraph.backends.fingerprint import fingerprint
from draftgraph.backends.masks import Mask
from draftgraph.backends.ragged import named
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import ModelError
from draftgraph.types import ROOT


@dataclass(eq=False)
class BlockHandle(FeatureHandle):
    """What a block drafter keeps of one request. Its nodes hold no cells: `nodes` are paths of their numbers.

    rows    f[depths, d], outputs of the round's block. anchor  the last committed token.
    """

    rows: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    anchor: int = 0

    def cells(self) -> npt.NDArray[np.int64]:
        return self.slots


class BlockModel(TorchModel):
    """A `CausalLM` over the target's vocabulary; tokens outside of the head have the logit -inf.

    Committed tokens are fed with features, as to a `FeatureModel`: the row of a token carries the features of the token above it.
    With them goes a block, which gives outputs for all depths. Feeding a node costs its row of the head alone.

    net  the network. tokens  i64[K], the target's id of every entry of the head. embeddings f[V, d], those of the target, raw.
    """

    forks: ClassVar[bool] = False

    def __init__(self, net: BlockNet, tokens: torch.Tensor, embeddings: torch.Tensor) -> None:
        super().__init__(net.core)
        self.net, self.tokens, self.embeddings = net, tokens, embeddings
        self.context_window = None  # that of the target counts

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the target's hidden states that make features."""
        return self.net.shape.taps

    @property
    def depths(self) -> int:
        """Tokens that a draft may be deep."""
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
            count, text = len(feed.committed), _handle_of(feed)
            above = torch.nn.functional.pad(text.above[:count], (0, 0, 0, max(0, count - len(text.above))))
            block = self.embeddings[torch.tensor(list(feed.tokens), device=self.device)] * self.net.block.scale
            parts += [self.net.context(above), block.to(self.dtype)]
            numbers += range(end + count, end + feed.num_rows)
            end += feed.num_rows
        self.net.rows.numbers = torch.tensor(numbers, device=self.device)
        return {"inputs_embeds": torch.cat(parts)[None]}

    def share(self, text: CacheHandle, other: CacheHandle, count: int) -> int:
        """0: what the target put out for these tokens is handed in by whoever reads them."""
        return 0

    def enter(self, feeds: Sequence[Feed], slots: Sequence[int]) -> list[int]:
        for feed in feeds:
            feed.text.nodes = []
        return super().enter(feeds, slots)

    @property
    def own_masks(self) -> bool:
        return True

    def mask_of(self, feeds: Sequence[Feed], slots: Sequence[int], hidden: float) -> Mask:
        mask, end = super().mask_of(feeds, slots, hidden), 0
        for feed in feeds if not self.net.block.causal else ():
            begin, end = end + len(feed.committed), end + feed.num_rows
            mask[begin:end, slots[begin:end]] = 0.0
        return mask

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        with self._lock:
            for feed in feeds:  # before anything is entered
                self._refuse_deep(feed)
            self._read_blocks([feed for feed in feeds if feed.committed])
            return [Scored(self._over_all(self._enter(feed))) for feed in feeds]

    def _refuse_deep(self, feed: Feed) -> None:
        """Raise ModelError for nodes of which no block speaks."""
        depths = [len(path) for path in ([] if feed.committed else feed.text.nodes)]
        for parent in feed.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        if max(depths, default=0) >= self.depths:
            raise ModelError(f"a block drafter speaks of {self.depths} tokens, and a node {max(depths)} deep was fed")

    def _read_blocks(self, feeds: Sequence[Feed]) -> None:
        """One pass over the committed tokens of these feeds, and a block behind each."""
        block = self.net.block
        chain = range(-1, block.size - 1)
        whole = [
            Feed(feed.text, feed.committed, [feed.committed[-1], *[block.mask] * (block.size - 1)], chain)
            for feed in feeds
        ]
        for feed, scored in zip(whole, super().forward(whole) if whole else (), strict=True):
            text = _handle_of(feed)
            text.rows, text.anchor, text.nodes = scored.logits[1 + block.first :], feed.committed[-1], []
            text.above = text.above[len(feed.committed) :]

    def _enter(self, feed: Feed) -> torch.Tensor:
        """Logits f[num_logits, K]: of the root if committed tokens are fed, and behind every drafted token."""
        text = _handle_of(feed)
        depths, before = ([0], [text.anchor]) if feed.committed else ([], [])
        for number, token in enumerate(feed.tokens):
            path = [*feed.ancestors(number), len(text.nodes)]
            text.nodes.append(path)
            depths.append(len(path))
            before.append(token)
        return self.net.logits(text.rows[depths], torch.tensor(before, device=self.device))

    def _over_all(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits over the target's vocabulary f[n, V], from those of the head f[n, K]."""
        whole = logits.new_full((len(logits), self.vocab_size), -torch.inf)
        whole[:, self.tokens] = logits
        return whole

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        super().keep(text, ())


def _handle_of(feed: Feed) -> BlockHandle:
    """The handle of a feed, which `BlockModel.open` made."""
    return cast(BlockHandle, feed.text)
