"""The name of the cache argument: `past_key_values` or `cache_params` up to transformers 5.23, `cache` from 5.24 on.

Signatures tell it, not versions. They never name what a decorator still accepts with a warning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

_OLD, _NEW, _RECURRENT = "past_key_values", "cache", "cache_params"


@cache
def cache_name() -> str:
    """The name in what `generate` prepares and returns, and in the forwards of this transformers."""
    from transformers import GenerationMixin  # which takes a second to import, and not every start needs it

    return _NEW if _NEW in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters else _OLD


def cache_names() -> tuple[str, str]:
    """The names in what `generate` prepares: classes with recurrent layers alone had their own up to transformers 5.23."""
    return cache_name(), _RECURRENT


def cache_argument(*forwards: Callable[..., Any]) -> str:
    """The name by which the first of `forwards` that names one takes its cache. Code from a hub may be older or newer than
    transformers, and adapters may only pass on what they get."""
    named = [inspect.signature(forward).parameters for forward in forwards]
    known = (cache_name(), _NEW, _OLD, _RECURRENT)
    return next((name for parameters in named for name in known if name in parameters), cache_name())
