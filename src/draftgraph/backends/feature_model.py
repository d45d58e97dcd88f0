"""A feature drafter's network as a backend: its rows read features, and what rows above them put out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch

from draftgraph.backends.base import CacheHandle, CausalLM, Feed, Scored
from draftgraph.backends.features import FeatureNetwork, over_vocabulary
from draftgraph.backends.fingerprint import fingerprint
from draftgraph.backends.prepared import prepare
from draftgraph.backends.ragged import named
from draftgraph.backends.taps import tapped
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import ModelError
from draftgraph.types import ROOT

NONE = -1
"""In the place of a token that is not there; its embedding is zero."""


class FeatureReader(CausalLM, Protocol):
    """A causal LM that was trained for a target. Where it reads features of it, its handles are `FeatureHandle`s.

    taps    names of the target's hidden states that make features, in their order; () if it reads the text alone.
    draws   kinds of slots that its rows allow above temperature 0, as in `Drafter.draws`.
    depths  tokens that a draft may be deep, along one path: its rows know the depth alone. None: drafts of any depth and shape.
    """

    @property
    def taps(self) -> Sequence[str]: ...
    @property
    def draws(self) -> Sequence[str]: ...
    @property
    def depths(self) -> int | None: ...


@dataclass(eq=False)
class FeatureHandle(CacheHandle):
    """What a feature drafter keeps of one request.

    above    f[k, features] for the next rows that have not been read: the target's hidden states of the tokens above them.
    outputs  f[d] of the rows of this round: by node, and of the last committed row at ROOT.
    recent   the last tokens up to a row of this round, as many as a row reads: by node, and of the text at ROOT.
    """

    above: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    recent: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def known(self) -> int:
        """Tokens of the text whose hidden states have been handed in."""
        return len(self) + len(self.above) - 1

    def learn(self, features: torch.Tensor) -> None:
        """Hand in the target's hidden states f[n, features] of the next n tokens of the text."""
        self.above = torch.cat([self.above, features.to(self.above)])

    def clear(self) -> None:
        super().clear()
        self.above, self.outputs, self.recent = self.above[:0], {}, {}

    def windows(self, feed: Feed, first: int, size: int) -> list[tuple[int, ...]]:
        """Of every row of a feed, whose first node is `first`, the last `size` tokens up to it; NONE before the text."""
        text = self.recent.get(ROOT, (NONE,) * size)
        found, by_node = [], dict(self.recent)
        for token in feed.committed:
            text = (*text[1:], token)
            found.append(text)
        by_node[ROOT] = text
        for number, (token, parent) in enumerate(zip(feed.tokens, feed.parents, strict=True), first):
            by_node[number] = (*by_node.get(parent, text)[1:], token)
            found.append(by_node[number])
        return found


class FeatureModel(TorchModel):
    """A `CausalLM` over the target's vocabulary; tokens outside of the head have the logit -inf.

    Rows of committed tokens read features, which are handed in before (`FeatureHandle.learn`). A token that got none reads zeros,
    as the first one of a text does; where that has no row, a handle counts it as read. Rows of nodes read the output of the row
    above, which an earlier pass has computed. Nodes are never kept: once accepted, a token is read again, with the target's
    features.

    net  the network. tokens  i64[K], the target's id of every entry of the head. embeddings  those of the target.
    """

    forks: ClassVar[bool] = False
    draws: ClassVar[Sequence[str]] = ("fixed", "sampled")

    def __init__(self, net: FeatureNetwork, tokens: torch.Tensor, embeddings: torch.nn.Module) -> None:
        super().__init__(net.core)
        self.net, self.tokens = net, tokens
        self.embeddings = embeddings
        self.context_window = (
            None  # that of the target counts: positions are rotated, however many there were in training
        )
        self._prepared = prepare(net.core)
        self._outputs = torch.empty(0, 0)

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the target's hidden states that make features."""
        return self.net.shape.taps

    @property
    def depths(self) -> None:
        """No limit: a row reads the row above it."""
        return None

    @property
    def model_name(self) -> str:
        return "feature drafter"

    @property
    def fingerprint(self) -> str:
        return f"{fingerprint(self.net)} {self.dtype} {named(self.model.config._attn_implementation)}"

    def open(self, capacity: int) -> FeatureHandle:
        first = int(self.net.reads_first)
        above = torch.zeros(first, self.net.features, device=self.device, dtype=self.dtype)
        return FeatureHandle(capacity, forgotten=1 - first, above=above)

    def share(self, text: CacheHandle, other: CacheHandle, count: int) -> int:
        """0: what the target put out for these tokens is handed in by whoever reads them."""
        return 0

    def inputs(self, feeds: Sequence[Feed]) -> dict[str, torch.Tensor]:
        rows = [part for feed in feeds for part in self._residuals(feed)]
        return {"inputs_embeds": torch.cat(rows)[None]}

    def _residuals(self, feed: Feed) -> list[torch.Tensor]:
        """Residuals of the committed rows and of the nodes of a feed, f[n, d] each."""
        text = handle_of(feed)
        embedded = self._embedded(feed)
        count, parts = len(feed.committed), []
        if count:
            missing = count - len(text.above)
            above = torch.nn.functional.pad(text.above, (0, 0, 0, missing)) if missing > 0 else text.above[:count]
            parts.append(self.net.committed(above, embedded[:count]))
        if feed.tokens:
            if not all(parent in text.outputs for parent in feed.parents) or (count and ROOT in feed.parents):
                raise ModelError(
                    "a feature drafter reads a node after a pass has read its parent; feed them one by one"
                )
            carried = torch.stack([text.outputs[parent] for parent in feed.parents])
            parts.append(self.net.drafted(carried, embedded[count:]))
        return parts

    def _embedded(self, feed: Feed) -> torch.Tensor:
        """f[n, window · d], the embeddings of the tokens that the rows of a feed read."""
        window, text = self.net.window, handle_of(feed)
        if window == 1:
            found: torch.Tensor = self.embeddings(torch.tensor([*feed.committed, *feed.tokens], device=self.device))
            return found
        ids = torch.tensor(text.windows(feed, len(text.nodes), window), device=self.device)
        each: torch.Tensor = self.embeddings(ids.clamp(min=0)) * (ids != NONE)[..., None]
        return each.flatten(1)

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        with self._lock:
            firsts = [len(feed.text.nodes) for feed in feeds]
            scored = super().forward(feeds, taps)
            counts = [feed.num_rows for feed in feeds]
            outputs = torch.split(self._outputs[-sum(counts) :], counts)
            for feed, first, rows in zip(feeds, firsts, outputs, strict=True):
                self._remember(handle_of(feed), feed, first, rows)
        return [Scored(self._over_all(rows.logits), rows.taps) for rows in scored]

    def call(self, **inputs: Any) -> torch.Tensor:
        """Logits f[1, rows, K] of one forward of the core; keeps the outputs of all its rows."""
        cache = inputs[self.cache_argument]
        if self._prepared is None:
            with tapped(self.model, [self.net.output]) as states:
                logits = super().call(**inputs)
            self._outputs = states[self.net.output][0]
            return logits
        read, mask, positions = inputs["inputs_embeds"][0], inputs["attention_mask"], inputs["position_ids"][0]
        self._outputs, logits = self._prepared(read, mask, positions, cache, inputs["logits_to_keep"])
        return logits[None]

    def _remember(self, text: FeatureHandle, feed: Feed, first: int, outputs: torch.Tensor) -> None:
        """Keep the outputs f[rows, d] of a pass in which node `first` was the first."""
        count = len(feed.committed)
        if self.net.window > 1:
            self._follow(text, feed, first)
        if count:
            text.above = text.above[count:]
            text.outputs = {ROOT: outputs[count - 1]}
        text.outputs.update(enumerate(outputs[count:], first))

    def _follow(self, text: FeatureHandle, feed: Feed, first: int) -> None:
        """Keep the last tokens up to the rows of a pass."""
        windows, count = text.windows(feed, first, self.net.window), len(feed.committed)
        if count:
            text.recent = {ROOT: windows[count - 1]}
        text.recent.update(enumerate(windows[count:], first))

    def _over_all(self, logits: torch.Tensor) -> torch.Tensor:
        return over_vocabulary(logits, self.tokens, self.vocab_size)

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        super().keep(text, ())


def handle_of(feed: Feed) -> FeatureHandle:
    """The handle of a feed, which `FeatureModel.open` made."""
    text = feed.text
    assert isinstance(text, FeatureHandle)
    return text
