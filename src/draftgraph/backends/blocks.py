"""Models that read the committed text, and give the rows of every depth of a draft with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch

from draftgraph.backends.base import CacheHandle, Feed, Scored
from draftgraph.backends.feature_model import FeatureHandle
from draftgraph.backends.features import over_vocabulary
from draftgraph.backends.masks import Mask
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


class BlocksModel(TorchModel):
    """A `CausalLM` over the target's vocabulary; tokens outside of the head have the logit -inf.

    Reading committed tokens gives outputs for all depths (`read_blocks`). Feeding a node costs its row of the head alone.

    tokens  i64[K], the target's id of every entry of the head. causal  whether rows of a block read those before them only.
    """

    forks: ClassVar[bool] = False
    draws: Sequence[str] = ("fixed", "sampled")
    causal: bool = False

    def __init__(self, core: Any, tokens: torch.Tensor) -> None:
        super().__init__(core)
        self.tokens = tokens
        self.context_window = None  # that of the target counts

    @property
    @abstractmethod
    def depths(self) -> int:
        """Tokens that a draft may be deep."""

    @abstractmethod
    def read_blocks(self, feeds: Sequence[Feed]) -> None:
        """Read the committed tokens of these feeds, and set `rows` and `anchor` of their handles."""

    @abstractmethod
    def head(self, outputs: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Logits f[n, K] of outputs f[n, d] behind the tokens `before` i64[n]."""

    def share(self, text: CacheHandle, other: CacheHandle, count: int) -> int:
        """0: the rows of a text's block are not shared."""
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
        for feed in feeds if not self.causal else ():
            begin, end = end + len(feed.committed), end + feed.num_rows
            mask[begin:end, slots[begin:end]] = 0.0
        return mask

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        with self._lock:
            for feed in feeds:  # before anything is entered
                self._refuse_deep(feed)
            read = [feed for feed in feeds if feed.committed]
            if read:
                self.read_blocks(read)
            return [Scored(over_vocabulary(self._enter(feed), self.tokens, self.vocab_size)) for feed in feeds]

    def pass_over(self, feeds: Sequence[Feed]) -> list[Scored]:
        """One pass of the core."""
        return super().forward(feeds)

    def _refuse_deep(self, feed: Feed) -> None:
        """Raise ModelError for nodes of which no block speaks."""
        depths = [len(path) for path in ([] if feed.committed else feed.text.nodes)]
        for parent in feed.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        if max(depths, default=0) >= self.depths:
            raise ModelError(f"a block drafter speaks of {self.depths} tokens, and a node {max(depths)} deep was fed")

    def _enter(self, feed: Feed) -> torch.Tensor:
        """Logits f[num_logits, K]: of the root if committed tokens are fed, and behind every drafted token."""
        text = handle_of(feed)
        depths, before = ([0], [text.anchor]) if feed.committed else ([], [])
        for number, token in enumerate(feed.tokens):
            path = [*feed.ancestors(number), len(text.nodes)]
            text.nodes.append(path)
            depths.append(len(path))
            before.append(token)
        return self.head(text.rows[depths], torch.tensor(before, device=self.device))

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        super().keep(text, ())


def handle_of(feed: Feed) -> BlockHandle:
    """The handle of a feed, which a `BlocksModel` has opened."""
    return cast(BlockHandle, feed.text)
