"""One lock for a model, however many engines use it."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

_LOCKS: WeakKeyDictionary[PreTrainedModel, threading.RLock] = WeakKeyDictionary()
_REGISTRY = threading.RLock()


def lock_of(model: PreTrainedModel) -> threading.RLock:
    """The model's own lock. Whoever holds it waits for nothing else."""
    with _REGISTRY:
        return _LOCKS.setdefault(model, threading.RLock())
