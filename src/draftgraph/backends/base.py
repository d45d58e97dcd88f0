"""The seam between the engine and a model's forward pass: rows in, logits out, paths kept.

`torch_model.HFModel` implements it for any causal LM of transformers; a faster forward implements the same four verbs.
Target and drafter use the same seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from draftgraph.types import ROOT


@dataclass(eq=False)
class CacheHandle:
    """What one model has cached of one request. The slots that are named here are taken; all others are free.

    room   slots that the request will soon need at least.
    slots  i64[length] cache slot of every committed token, in text order.
    nodes  cache slots from the committed text down to every node of this round, in the order they were fed.
    """

    room: int = 0
    slots: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    nodes: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.slots)

    def cells(self) -> npt.NDArray[np.int64]:
        """i64[length + nodes] all slots that the request holds; may be asked by any thread."""
        nodes = self.nodes  # read before `slots`: whoever moves a slot from here to there writes in the other order
        return np.append(self.slots, [path[-1] for path in nodes]) if nodes else self.slots

    def clear(self) -> None:
        """Let go of everything; a second time, nothing."""
        self.room, self.slots, self.nodes = 0, np.empty(0, dtype=np.int64), []


@dataclass(frozen=True)
class Feed:
    """What one request feeds to one forward pass.

    committed  tokens that continue the cached text for good (the prompt, or what the last round emitted).
    tokens     drafted tokens behind them; they become nodes of this round.
    parents    per drafted token the node (numbered over the whole round) that it follows, or ROOT.
    """

    text: CacheHandle
    committed: Sequence[int] = ()
    tokens: Sequence[int] = ()
    parents: Sequence[int] = ()

    @property
    def num_logits(self) -> int:
        """Logits come back for the last committed token (if any is fed) and for every drafted token."""
        return bool(self.committed) + len(self.tokens)

    def ancestors(self, row: int) -> list[int]:
        """Slots of the nodes above drafted token `row`; its parent must have its own slot already."""
        parent = self.parents[row]
        return [] if parent == ROOT else self.text.nodes[parent]


class CausalLM(Protocol):
    """A causal language model that evaluates rows of many requests in one pass."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context_window(self) -> int | None: ...
    @property
    def device(self) -> torch.device: ...

    def refuse_training(self) -> None:
        """Raise ModelError if every pass would be another law, as with dropout."""
        ...

    def open(self, capacity: int) -> CacheHandle:
        """Begin a request that will soon cache `capacity` tokens: its prompt and a first draft."""
        ...

    def forward(self, batch: Sequence[Feed]) -> list[torch.Tensor]:
        """One pass over the rows of all requests; per request its logits, f[num_logits, V]."""
        ...

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        """End the round: these nodes (a path from the root) join the committed text, the others are gone."""
        ...

    def close(self, text: CacheHandle) -> None:
        """End the request and free what it cached. May be called twice, and by the garbage collector."""
        ...
