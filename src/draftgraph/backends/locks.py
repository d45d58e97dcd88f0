"""Whose turn it is with a loaded model, which several engines may use."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOCKS: WeakKeyDictionary[PreTrainedModel, threading.RLock] = WeakKeyDictionary()
_REGISTRY = threading.RLock()


def lock_of(model: PreTrainedModel) -> threading.RLock:
    """One lock for a model, however many engines use it. Whoever holds it waits for nothing else."""
    with _REGISTRY:
        return _LOCKS.setdefault(model, threading.RLock())
