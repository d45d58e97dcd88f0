"""The name of the cache argument: `past_key_values` up to transformers 5.23, `cache` from 5.24 on.

Signatures tell it, not versions. They never name what a decorator still accepts with a warning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from transformers import GenerationMixin

_OLD, _NEW = "past_key_values", "cache"

CACHE = _NEW if _NEW in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters else _OLD
"""The name in what `generate` prepares and returns, and in the forwards of this transformers."""


def cache_argument(forward: Callable[..., Any]) -> str:
    """The name by which `forward` takes its cache. Code from a hub may be older or newer than transformers."""
    parameters = inspect.signature(forward).parameters
    return next((name for name in (CACHE, _NEW, _OLD) if name in parameters), CACHE)
