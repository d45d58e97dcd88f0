"""Texts that begin alike, that go on as several, and that are of old weights, in a pool of cells."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from draftgraph.backends.base import CacheHandle
from draftgraph.backends.cells import CellPool
from draftgraph.backends.rope import Switch
from draftgraph.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CellForks:
    """`CausalLM.share`, `fork` and `refresh` for a model whose cache is a pool of cells."""

    forks: ClassVar[bool] = True
    class_name: str
    model: PreTrainedModel
    cache: CellPool
    _lock: AbstractContextManager[Any]
    _switch: Switch | None

    def share(self, text: CacheHandle, other: CacheHandle, count: int) -> int:
        if count <= 0 or text.cells().size or other.forgotten or text.stretched != other.stretched:
            return 0
        if self._switch is not None and not self._switch.rereads:
            return 0  # some of the other text may have been read with other positions
        with self._lock:
            now = _weights_now(self.model)
            if other.weights not in (None, now):
                return 0
            text.weights = now
            return self.cache.share(text, other, count)

    @property
    def _num_cached(self) -> int:
        """Texts that have cached something."""
        return sum(len(handle.cells()) > 0 for handle in self.cache.handles)

    def refresh(self) -> None:
        with self._lock:
            cached = self._num_cached
        if cached:
            raise ModelError(
                f"{cached} texts of {self.class_name} are being decoded, and what is cached of them is of the old weights; read "
                "their streams to the end or close them, then say that weights changed"
            )

    def fork(self, text: CacheHandle, nodes: Sequence[int]) -> CacheHandle:
        if not self.forks:
            raise ModelError(f"texts of {self.class_name} cannot fork: what it caches belongs to one path")
        with self._lock:
            return self.cache.fork(text, nodes)


def _weights_now(model: torch.nn.Module) -> int:
    """A number that is another one after a step of an optimizer, or after weights were loaded.

    Who writes into `weight.data` leaves no trace; for that there is `refresh`.
    """
    return hash(tuple((id(each), 0 if each.is_inference() else each._version) for each in model.parameters()))
