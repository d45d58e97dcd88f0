"""The seam between the engine and a model's forward pass: rows in, logits out, paths kept.

`torch_model.TorchModel` implements it for any causal LM of transformers; a faster forward implements the same verbs.
Target and drafter use the same seam. Nobody reaches through it: a backend says itself what there is to know of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch

from draftgraph.types import ROOT

EXACT = "exact"
"""Rows are computed in float32 or better: greedy text was never seen to differ between narrow and wide passes."""
NEAR_TIES = "near ties may differ with the width of a pass"
"""Rows are rounded (bfloat16, float16, quantised): two tokens whose logits differ in the last bits may change places."""
BITWISE = "bit for bit the text without drafts"
"""Rows are the same bit for bit, whatever is read beside them."""


@dataclass(eq=False)
class CacheHandle:
    """What one model has cached of one request. The slots that are named here are taken; all others are free.

    room   slots that the request will soon need at least.
    slots  i64[length - forgotten] cache slot of every committed token that is still read, in text order.
    nodes  cache slots from the committed text down to every node of this round, in the order they were fed.
    forgotten  committed tokens at the beginning of the text that no layer reads any more.
    stretched  whether the text is read with the positions of long texts: see `CausalLM.switch`.
    weights  which weights a text that others begin with was read by, where that is known.
    """

    room: int = 0
    slots: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    nodes: list[list[int]] = field(default_factory=list)
    forgotten: int = 0
    stretched: bool = False
    weights: int | None = None

    def __len__(self) -> int:
        return self.forgotten + len(self.slots)

    def forget(self, before: int) -> None:
        """Let go of the committed tokens at positions below `before`."""
        count = before - self.forgotten
        if count > 0:
            self.slots, self.forgotten = self.slots[count:], before

    def take_back(self, length: int, nodes: int) -> None:
        """Let go of what was entered since the text had `length` tokens and the round `nodes` nodes."""
        del self.nodes[nodes:]
        self.slots = self.slots[: max(0, length - self.forgotten)]

    def cells(self) -> npt.NDArray[np.int64]:
        """i64[length + nodes] all slots that the request holds; may be asked by any thread."""
        nodes = self.nodes  # read before `slots`: whoever moves a slot from here to there writes in the other order
        return np.append(self.slots, [path[-1] for path in nodes]) if nodes else self.slots

    def clear(self) -> None:
        """Let go of everything; a second time, nothing."""
        self.room, self.slots, self.nodes = 0, np.empty(0, dtype=np.int64), []
        self.forgotten, self.stretched = 0, False


@dataclass(frozen=True)
class Likely:
    """How tokens are likely to be chosen behind the last row of a feed, each behind the one before. A guess: nobody relies on it.

    count      how many.
    quantiles  in [0, 1), at which they are drawn, one each; (): they are the best ones.
    exponent   of the laws that are drawn from: softmax(exponent * logits).
    """

    count: int
    quantiles: Sequence[float] = ()
    exponent: float = 1.0


@dataclass(frozen=True)
class Feed:
    """What one request feeds to one forward pass.

    committed  tokens that continue the cached text for good (the prompt, or what the last round emitted).
    tokens     drafted tokens behind them; they become nodes of this round.
    parents    per drafted token the node (numbered over the whole round) that it follows, or ROOT.
    likely     how the tokens that are fed next are likely to be chosen. A model that can chooses and reads them now.
    goes_on    more of the text follows, so that nobody uses the logits behind the last committed token. There is no draft then.
    """

    text: CacheHandle
    committed: Sequence[int] = ()
    tokens: Sequence[int] = ()
    parents: Sequence[int] = ()
    likely: Likely | None = None
    goes_on: bool = False

    @property
    def num_rows(self) -> int:
        return len(self.committed) + len(self.tokens)

    @property
    def num_logits(self) -> int:
        """Logits come back for the last committed token (if any is fed) and for every drafted token."""
        return bool(self.committed) + len(self.tokens)

    def ancestors(self, row: int) -> list[int]:
        """Slots of the nodes above drafted token `row`; its parent must have its own slot already."""
        parent = self.parents[row]
        return [] if parent == ROOT else self.text.nodes[parent]


@dataclass(frozen=True)
class Scored:
    """What a pass gives to one request.

    logits  f[num_logits, V] behind the last committed token, if any was fed, and behind every drafted token.
    taps    f[num_rows, width] by name: hidden states of all rows that were fed, in the order of the feed.
    likely  tokens that were read behind the last row, as `Feed.likely` says: nodes of this round, whose logits come last.
    """

    logits: torch.Tensor
    taps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    likely: Sequence[int] = ()


class CausalLM(Protocol):
    """A causal language model that evaluates rows of many requests in one pass.

    name            of the backend.
    model_name      of the model, for reports.
    dtype           of its weights, and of its logits.
    device          where its logits lie.
    vocab_size      entries of a row of logits.
    context_window  tokens that it can read at most; None if it does not say.
    most_rows       rows of one pass at most. Longer texts are read piece by piece before a round (`prefill`).
    sizes           numbers of rows that passes are padded to, rising; () if none is. Larger passes are not padded.
    switch          tokens of the longest text that is read as short; longer texts are read with other positions (longrope).
                    No draft may reach over it. None if there is one way only.
    landmarks       lengths of text beyond which some layer begins to read otherwise: windows, chunks, the switch.
    branches        whether drafts may branch; False: all are chains, since some layers read one path.
    joins           whether requests share passes; False: one pass has rows of one request.
    forks           whether a text may go on as several (`fork`); False: what it has cached is one path's, or somebody else's.
    numerics        what the width of a pass does to its logits: `EXACT`, `NEAR_TIES` or `BITWISE`.
    fingerprint     tells its costs from those of other models: a hash of its weights, and how it computes.
    cell_bytes      memory that a cached token takes, in bytes; 0 if it cannot be told.
    """

    name: ClassVar[str]
    most_rows: int
    joins: ClassVar[bool]
    forks: ClassVar[bool]

    @property
    def sizes(self) -> Sequence[int]: ...
    @property
    def branches(self) -> bool: ...

    @property
    def model_name(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def context_window(self) -> int | None: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def switch(self) -> int | None: ...
    @property
    def landmarks(self) -> Sequence[int]: ...
    @property
    def numerics(self) -> str: ...
    @property
    def cell_bytes(self) -> int: ...

    def bitwise(self) -> CausalLM:
        """The same model in passes whose rows do not depend on what is read beside them, not by a bit.

        Requests belong to one of the two. Raises OptionError, with the cause, where passes depend on their width.
        """
        ...

    def apart(self) -> CausalLM:
        """The same model in passes that depend on one text alone, so that its rows are the same bits in any company.

        They may be other rows with drafts than without, unlike those of `bitwise`. Raises OptionError, with the cause, where
        rows depend on other texts.
        """
        ...

    def refuse_training(self) -> None:
        """Raise ModelError if every pass would be another law, as with dropout."""
        ...

    def open(self, capacity: int) -> CacheHandle:
        """Begin a request that will soon cache `capacity` tokens: its prompt and a first draft."""
        ...

    def share(self, text: CacheHandle, other: CacheHandle, count: int) -> int:
        """Let a text that has nothing cached begin with what another text has cached: its first `count` tokens at most.

        To be called after `expect`, between rounds of the other text, where both texts begin with these tokens. The memory is
        free once neither of them holds it; nobody writes to it any more.

        Returns how many tokens need not be read. 0 where the model cannot tell them apart from tokens that it has read for this
        text: recurrent states, forgotten tokens, features of another model, rows that must agree bit for bit.
        """
        ...

    def fork(self, text: CacheHandle, nodes: Sequence[int]) -> CacheHandle:
        """Another text that begins as this one does and goes on with a path of its nodes, as if they had been kept there.

        To be called before `keep` ends the round. The two share what is cached of their beginning; it is free once neither of
        them holds it. Raises ModelError without `forks`.
        """
        ...

    def price_change(self, rows: float) -> None:
        """A change of the size of passes costs about as much as so many rows. It matters to models that pad their passes."""
        ...

    def settle(self) -> None:
        """Do now what passes would do by and by, so that their times are those to come."""
        ...

    def expect(self, text: CacheHandle, length: int) -> None:
        """Say how many committed tokens the text has now, cached or not; to be called before they are read.

        What was cached of a shorter text is let go of where the model reads the longer one anew (`switch`).
        """
        ...

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        """One pass over the rows of all requests; logits and taps of each.

        A pass that raises has entered nothing into any text, so that it may be repeated; without `joins`, the text that it was
        about is empty.

        taps  names of hidden states: "hidden:0" is what the first layer reads, "hidden:i" what layer i has put out, and
              the last one, after the final norm, is what the head reads. "keys:i" and "values:i" are what layer i, from 0 on,
              caches of a row: its heads behind each other, keys already turned by their position.

        Raises LogitsError for logits that are not finite, OptionError for a tap that the model does not have, ModelError if
        the backend gives none.
        """
        ...

    def refresh(self) -> None:
        """Say that the weights of the model were changed in place. To be called when finished texts have been let go of.

        Raises ModelError where passes read a copy of the weights, and where a text has cached what the old ones gave.
        """
        ...

    def plain(self, ids: torch.Tensor, count: int) -> torch.Tensor:
        """The last `count` rows of logits, f[b, count, V], of one forward over whole texts i64[b, n].

        No cache, no masks, no positions where the model numbers them as `generate` does: a second way to the same rows, which
        passes are checked against.
        """
        ...

    def hold_weakly(self) -> None:
        """Keep the model alive no longer, for engines that are kept only as long as their model."""
        ...

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        """End the round: these nodes (a path from the root) join the committed text, the others are gone."""
        ...

    def close(self, text: CacheHandle) -> None:
        """End the request and free what it cached. May be called twice, and by the garbage collector."""
        ...
