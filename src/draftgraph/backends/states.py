"""The cache of one request to a model whose layers read one path.

Keys and values are rows that can be left out again: a length says how many count. A recurrent state has no rows. It is copied
before anything is tried, and the copy is put back where the trial failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PretrainedConfig
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    LinearAttentionLayer,
    get_layer_types_and_kwargs,
)

from draftgraph.backends.base import CacheHandle
from draftgraph.backends.layer_kinds import ELSEWHERE, INDEXED, RECURRENT, RECURRENT_ALONE

Saved = list[dict[str, Any]]
"""What the layers held, one after the other."""
_ROWS = "_rows"


class RowsLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, in memory that has room for more. length  rows that count."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self._rows: list[torch.Tensor | None] = [None, None]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: memory is made where it is written."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        begin, self.length = self.length, self.length + key_states.shape[2]
        seen = []
        for i, states in enumerate((key_states, value_states)):
            rows = self._rows[i] = _with_room(self._rows[i], states, begin, self.length)
            rows[:, :, begin : self.length] = states
            seen.append(rows[:, :, : self.length])
        return seen[0], seen[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


def _with_room(rows: torch.Tensor | None, like: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    """Memory for `end` rows at least, with the first `begin` rows of before; it grows by half, so that growing stays rare."""
    if rows is not None and rows.shape[2] >= end:
        return rows
    larger = like.new_empty((*like.shape[:2], max(end, begin + begin // 2), like.shape[3]))
    if rows is not None:
        larger[:, :, :begin] = rows[:, :, :begin]
    return larger


class IndexedLayer(RowsLayer):
    """Keys and values of one layer, and the keys of the index by which it picks among them.

    indexed  index keys that count. indexer_position_ids  i64[dims, 1, rows], kept by models that need positions of their index.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows.append(None)
        self.indexed = 0
        self.indexer_position_ids: torch.Tensor | None = None

    def update_indexer(self, indexer_key_states: torch.Tensor) -> torch.Tensor:
        """The index keys f[1, n, dim] of all rows, with those of new rows f[1, rows, dim]."""
        begin, self.indexed = self.indexed, self.indexed + indexer_key_states.shape[1]
        states = indexer_key_states[:, None]
        rows = self._rows[2] = _with_room(self._rows[2], states, begin, self.indexed)
        rows[:, :, begin : self.indexed] = states
        return rows[:, 0, : self.indexed]


class BothLayer(LinearAttentionLayer, RowsLayer):  # type: ignore[misc]
    """A layer with a recurrent state and attention."""

    def __init__(self, number_of_states: int = 1) -> None:
        RowsLayer.__init__(self)
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)


class StateCache(Cache):  # type: ignore[misc]
    """What the layers of a model keep of one text. length  its tokens."""

    def __init__(self, config: PretrainedConfig) -> None:
        named, options = get_layer_types_and_kwargs(config)
        super().__init__(layers=[_layer(name, its) for name, its in zip(named, options, strict=True)])
        self.length = 0

    def clear_states(self) -> int:
        """Set all recurrent states to zero; how many there are."""
        states = [state for layer in self.layers for state in getattr(layer, "recurrent_states", {}).values()]
        held = [state.zero_() for state in states if state is not None]
        return len(held)

    def save(self) -> Saved:
        """A copy of all states. Rows are not copied: their number is."""
        return [{name: _copied(value) for name, value in vars(layer).items() if name != _ROWS} for layer in self.layers]

    def restore(self, saved: Saved) -> None:
        """Put back what was saved, which then belongs to the cache."""
        for layer, held in zip(self.layers, saved, strict=True):
            vars(layer).update(held)


def _layer(name: str, options: dict[str, Any]) -> Any:
    if name == ELSEWHERE:
        return DummyLayer()
    if name not in RECURRENT:
        return IndexedLayer() if name == INDEXED else RowsLayer()
    kind = LinearAttentionLayer if name in RECURRENT_ALONE else BothLayer
    return kind(number_of_states=options.get("number_of_states", 1))


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return {key: _copied(each) for key, each in value.items()} if isinstance(value, dict) else value


@dataclass(eq=False)
class StateHandle(CacheHandle):
    """What a model that reads one path has cached of one request.

    cache   its layers; None once it was let go.
    length  committed tokens that the cache holds; drafted ones come after them.
    saved   the states before this round's drafts, and the committed tokens that they hold; None before there are drafts.
    """

    cache: StateCache | None = None
    length: int = 0
    saved: tuple[Saved, int] | None = None

    def __len__(self) -> int:
        return self.length

    def cells(self) -> npt.NDArray[np.int64]:
        return self.slots  # of no pool

    def clear(self) -> None:
        super().clear()
        self.cache, self.length, self.saved = None, 0, None
