"""Copies of a user's callables, so that they can be tried without being changed."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import torch

DEPTH, MOST_PARTS = 3, 64
"""Levels of attributes, containers and closures that are searched for what is shared; parts of each that are looked at."""
_T = TypeVar("_T")


def copied(original: _T) -> _T:
    """A copy with state of its own: attributes, and what functions close over. Models and tokenizers are shared, for they are
    large. What cannot be copied comes back as it is."""
    try:
        shared = {id(part): part for part in _shared(original, DEPTH)}
        if isinstance(original, types.FunctionType):
            return _function(original, shared)  # type: ignore[return-value]
        made = copy.deepcopy(original, shared)
        for name, part in getattr(made, "__dict__", {}).items():
            if isinstance(part, types.FunctionType):
                setattr(made, name, _function(part, shared))
        return made
    except Exception:  # locks, generators, objects of other languages
        return original


def _shared(part: Any, depth: int) -> Iterator[Any]:
    if isinstance(part, torch.nn.Module) or hasattr(part, "get_vocab"):
        yield part
    elif depth:
        for inner in islice(_parts(part), MOST_PARTS):
            yield from _shared(inner, depth - 1)


def _parts(whole: Any) -> Iterable[Any]:
    if isinstance(whole, (list, tuple, set)):
        return whole
    if isinstance(whole, Mapping):
        return whole.values()
    if isinstance(whole, types.FunctionType):
        return [cell.cell_contents for cell in whole.__closure__ or ()]
    if isinstance(whole, types.MethodType):
        return [whole.__self__]
    if isinstance(whole, functools.partial):
        return [whole.func, *whole.args, *whole.keywords.values()]
    attributes: dict[str, Any] = getattr(whole, "__dict__", {})
    return attributes.values()


def _function(original: types.FunctionType, shared: dict[int, Any]) -> types.FunctionType:
    """`copy.deepcopy` takes functions for constants; their closures and defaults are not."""
    cells = tuple(types.CellType(copy.deepcopy(cell.cell_contents, shared)) for cell in original.__closure__ or ())
    defaults = copy.deepcopy(original.__defaults__, shared)
    made = types.FunctionType(original.__code__, original.__globals__, original.__name__, defaults, cells)
    made.__kwdefaults__ = copy.deepcopy(original.__kwdefaults__, shared)
    vars(made).update(copy.deepcopy(vars(original), shared))
    return made
