"""Models whose layers read one path: drafts are chains, what was rejected is taken back by going back to a copy of the states.

Such layers are recurrent, or have an index over the order of their rows. States are copied before the drafts of a round. If all
drafts are kept, nothing is to be done. Otherwise the copy is put back, and the handle is as long as the copy: what was kept is
fed once more, in front of the next round's tokens, by whoever looks at its length. So no pass is made for it.

Every request runs by itself: rows of two texts cannot follow each other in such a layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import torch

from draftgraph.backends.base import CacheHandle, Feed, Scored
from draftgraph.backends.layer_kinds import layer_kinds, why_one_path
from draftgraph.backends.states import StateCache, StateHandle
from draftgraph.backends.support import evaluating
from draftgraph.backends.taps import tapped
from draftgraph.backends.torch_model import TorchModel
from draftgraph.backends.wrapped import opened
from draftgraph.errors import DraftError, LogitsError, ModelError

MOST_REPLAYED = 8
"""Committed tokens that go into a pass with drafts, which a rejection makes go into the next one too. More are read before."""
ALL_AT_ONCE = 1 << 20
"""Rows of the first pass over a text, where later passes have one row each."""


def torch_model(module: torch.nn.Module) -> TorchModel:
    """What runs a model of torch: by its layers. Raises ModelError, before any draft, if nothing can."""
    return RecurrentModel(module) if reads_one_path(module) else TorchModel(module)


def reads_one_path(module: torch.nn.Module) -> bool:
    """Whether a model has layers that read one path, as its configuration says."""
    try:
        return bool(why_one_path(layer_kinds(opened(module).model.config.get_text_config(decoder=True))))
    except (AttributeError, TypeError, ValueError):
        return False  # what is wrong is told by the rules of the support


class RecurrentModel(TorchModel):
    """`CausalLM` for a transformers model whose layers read one path.

    one_by_one  whether its layers go on from a state by one token only.

    Raises ModelError, before any forward, for a model that cannot run.
    """

    branches: ClassVar[bool] = False
    joins: ClassVar[bool] = False
    forks: ClassVar[bool] = False

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        if self._switch is not None:
            raise ModelError(
                f"{self.class_name} has {why_one_path(self.kinds)}, and positions that change beyond {self._switch.length} "
                f"tokens; set max_position_embeddings={self._switch.length} in its configuration, for shorter texts"
            )
        self._texts: WeakValueDictionary[int, StateHandle] = WeakValueDictionary()
        self._takes = frozenset(inspect.signature(self.model.forward).parameters)
        self.one_by_one = False
        with evaluating(self.called), suppress(Exception):  # what fails here is told by the probe
            if not self._reads_states():
                self.go_one_by_one()

    def go_one_by_one(self) -> None:
        """From now on passes that go on from a state have one row."""
        self.one_by_one, self.most_rows = True, ALL_AT_ONCE

    @torch.inference_mode()
    def _reads_states(self) -> bool:
        """Whether a pass of two rows reads the recurrent states; some modules read them in passes of one row only."""
        seen = []
        for cleared in (False, True):
            cache = StateCache(self.config)
            self._pass_of(cache, [1 % self.vocab_size] * 3, 1, ())
            if cleared and not cache.clear_states():
                return True
            seen.append(self._pass_of(cache, [2 % self.vocab_size] * 2, 2, ()).logits)
        return not torch.equal(*seen)

    def call(self, **inputs: Any) -> torch.Tensor:
        """Logits of one forward, from what its signature takes."""
        count = inputs["logits_to_keep"]
        logits = super().call(
            **{name: value for name, value in inputs.items() if name in self._takes or name == self.cache_argument}
        )
        return logits[:, -count:]

    def open(self, capacity: int) -> CacheHandle:
        handle = StateHandle(cache=StateCache(self.config))
        self._texts[id(handle)] = handle
        return handle

    @property
    def _num_cached(self) -> int:
        handles = [ref() for ref in self._texts.valuerefs()]
        return sum(handle is not None and len(handle) > 0 for handle in handles)

    def share(self, text: CacheHandle, other: CacheHandle, count: int) -> int:
        """0: a state holds the whole text that it has read."""
        return 0

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        with self._lock:
            if self.model.training or self.called.training:
                self.refuse_training()
            return [self._entered(feed, taps) for feed in feeds]

    def _entered(self, feed: Feed, taps: Sequence[str]) -> Scored:
        """Read a feed; a text whose states went half through a pass is let go of."""
        try:
            return self._read(feed, taps)
        except BaseException:
            feed.text.clear()
            raise

    def _read(self, feed: Feed, taps: Sequence[str]) -> Scored:
        text = feed.text
        assert isinstance(text, StateHandle)
        self._refuse_branches(feed)
        if text.cache is None:
            text.cache = StateCache(self.config)
        committed, tokens, parts = list(feed.committed), list(feed.tokens), []
        if tokens and not text.nodes:
            if self.one_by_one or len(committed) > MOST_REPLAYED:
                parts += self._rows(text.cache, committed, min(1, len(committed)), taps)
                text.length, committed = text.length + len(committed), []
            text.saved = text.cache.save(), text.length
        parts += self._rows(text.cache, [*committed, *tokens], len(tokens) + bool(committed), taps)
        text.length += len(committed)
        text.nodes += [[] for _ in tokens]
        return Scored(
            torch.cat([part.logits for part in parts]),
            {name: torch.cat([part.taps[name] for part in parts]) for name in taps},
        )

    def _refuse_branches(self, feed: Feed) -> None:
        """The engine gives no other drafts to such a model; own drafters might."""
        last = len(feed.text.nodes) - 1
        if list(feed.parents) != list(range(last, last + len(feed.tokens))):
            raise DraftError(f"{self.class_name} has {why_one_path(self.kinds)}, which read one path; draft chains")

    def _rows(self, cache: StateCache, tokens: list[int], count: int, taps: Sequence[str]) -> list[Scored]:
        """Passes over tokens that follow what is cached: one, or one for each. Logits come back for the last `count`."""
        if not tokens:
            return []
        if self.one_by_one and cache.length and len(tokens) > 1:
            wanted = [int(i >= len(tokens) - count) for i in range(len(tokens))]
            return [self._pass_of(cache, [token], w, taps) for token, w in zip(tokens, wanted, strict=True)]
        return [self._pass_of(cache, tokens, count, taps)]

    def _pass_of(self, cache: StateCache, tokens: list[int], count: int, taps: Sequence[str]) -> Scored:
        end = cache.length + len(tokens)
        with tapped(self.model, taps) as states:
            logits = self.call(
                input_ids=torch.tensor([tokens], device=self.device),
                position_ids=torch.arange(cache.length, end, device=self.device)[None],
                use_cache=True,
                logits_to_keep=max(1, count),
                **{self.cache_argument: cache},
            )[0]
        cache.length = end
        if not np.isfinite(logits.sum(dtype=torch.float32).item()):
            raise LogitsError(
                f"{self.class_name} returned NaN or infinite logits; the request was stopped, the engine is usable"
            )
        return Scored(logits[len(logits) - count :], {name: rows[0] for name, rows in states.items()})

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        assert isinstance(text, StateHandle)
        if len(nodes) == len(text.nodes):
            text.length += len(nodes)
        elif text.saved is not None and text.cache is not None:
            states, text.length = text.saved
            text.cache.restore(states)
            text.cache.length = text.length
        text.nodes, text.saved = [], None
