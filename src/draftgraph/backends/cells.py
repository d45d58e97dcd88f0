"""A key/value cache that is a pool of slots: rows are written where they are told, and paths are kept by keeping slots."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class CellLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, f[1, heads, slots, head_dim]; which slots a row may read is the mask's business."""

    def __init__(self, pool: CellPool) -> None:
        super().__init__()
        self.pool = pool

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = _zeros(key_states, self.pool.capacity)
        self.values = _zeros(value_states, self.pool.capacity)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        elif self.keys.shape[2] < self.pool.capacity:
            self.grow()
        self.keys.index_copy_(2, self.pool.written, key_states)
        self.values.index_copy_(2, self.pool.written, value_states)
        return self.keys[:, :, : self.pool.high], self.values[:, :, : self.pool.high]

    def grow(self) -> None:
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = _zeros(old, self.pool.capacity)
            new[:, :, : old.shape[2]] = old
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.pool.high, 0

    def get_seq_length(self) -> int:
        return self.pool.high

    def get_max_length(self) -> int:
        return -1


def _zeros(like: torch.Tensor, capacity: int) -> torch.Tensor:
    """Zeros rather than uninitialised memory: a masked NaN would still poison the attention sum."""
    return like.new_zeros((1, like.shape[1], capacity, like.shape[3]))


class CellPool(Cache):  # type: ignore[misc]
    """The pool that all requests of one model share. Lowest free slots are used first, so that reads stay short."""

    def __init__(self, num_layers: int) -> None:
        super().__init__(layers=[CellLayer(self) for _ in range(num_layers)])
        self.capacity = 0
        self.high = 0
        self.written = torch.empty(0, dtype=torch.long)
        self._free: list[int] = []
        self._used: set[int] = set()

    def reserve(self, slots: int) -> None:
        """Make room for `slots` more tokens at once (keys and values grow on the next pass)."""
        missing = len(self._used) + slots - self.capacity
        if missing > 0:
            grown = self.capacity + max(missing, self.capacity // 2)
            for slot in range(self.capacity, grown):
                heapq.heappush(self._free, slot)
            self.capacity = grown

    def take(self, count: int) -> list[int]:
        self.reserve(count)
        slots = [heapq.heappop(self._free) for _ in range(count)]
        self._used.update(slots)
        self.high = max(self.high, max(slots, default=-1) + 1)
        return slots

    def release(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._used.remove(slot)
            heapq.heappush(self._free, slot)
        while self.high > 0 and self.high - 1 not in self._used:
            self.high -= 1

    def wipe(self) -> None:
        """Zero all slots that no request uses: after a failed pass they may hold NaN."""
        free = torch.tensor(self._free, dtype=torch.long)
        for layer in self.layers:
            if layer.is_initialized:
                inside = free[free < layer.keys.shape[2]].to(layer.keys.device)
                layer.keys.index_fill_(2, inside, 0.0)
                layer.values.index_fill_(2, inside, 0.0)
