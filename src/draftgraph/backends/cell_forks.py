"""Texts that go on as several, in a pool of cells."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from draftgraph.backends.base import CacheHandle
from draftgraph.backends.cells import CellPool
from draftgraph.errors import ModelError


class CellForks:
    """`CausalLM.fork` for a model whose cache is a pool of cells."""

    forks: ClassVar[bool] = True
    class_name: str
    cache: CellPool
    _lock: AbstractContextManager[Any]

    def fork(self, text: CacheHandle, nodes: Sequence[int]) -> CacheHandle:
        if not self.forks:
            raise ModelError(f"texts of {self.class_name} cannot fork: what it caches belongs to one path")
        with self._lock:
            return self.cache.fork(text, nodes)
