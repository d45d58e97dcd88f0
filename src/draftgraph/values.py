"""Values that users give, as plain Python: whole numbers, numbers, flags, lists and texts.

Each reader returns None for what it cannot read; the caller says which option that was and what is possible.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from decimal import Decimal
from itertools import islice
from numbers import Real
from typing import Any

MOST_ITEMS = 1 << 20
"""Items that are read from an iterator at most: an endless one is refused."""


def as_integer(value: Any) -> int | None:
    """An int from an int, a NumPy integer or an integer tensor of no dimension. Bools, floats and texts are none."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not _is_scalar(value):
        return None
    try:
        return operator.index(value)
    except Exception:  # a class of the user's own, a tensor without data
        return None


def as_number(value: Any) -> float | None:
    """A float from any real number, or from a real tensor of no dimension. Bools and texts are none."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not _is_scalar(value):
        return None
    if not isinstance(value, Real | Decimal) and not hasattr(value, "dtype"):
        return None
    try:
        return float(value)
    except Exception:  # beyond a double, a tensor without data
        return None


def as_flag(value: Any) -> bool | None:
    """A bool from a bool, a NumPy bool or a bool tensor of no dimension."""
    if isinstance(value, bool):
        return value
    if getattr(value, "ndim", None) != 0 or "bool" not in str(getattr(value, "dtype", "")):
        return None
    try:
        return bool(value)
    except Exception:  # a tensor without data
        return None


def as_list(value: Any) -> list[Any] | None:
    """The items of an array, a sequence, a set or an iterator, which is used up here, once.

    Texts, bytes and mappings are none, though they can be iterated; nor is what has more than `MOST_ITEMS` items.
    """
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping):
        return None
    if is_array(value):
        return array_items(value)
    try:
        items = iter(value)
    except TypeError:
        return None
    if isinstance(value, list | tuple):
        return list(value)
    read = list(islice(items, MOST_ITEMS + 1))
    return read if len(read) <= MOST_ITEMS else None


def is_array(value: Any) -> bool:
    """Whether a value is a tensor, a NumPy array or the like, of any number of dimensions."""
    return hasattr(value, "tolist") and hasattr(value, "dtype") and hasattr(value, "ndim")


def array_items(value: Any) -> list[Any] | None:
    """An array as (nested) lists of Python values; None without dimensions, or without data."""
    try:
        items = value.tolist()
    except Exception:  # a tensor without data, or of a layout that has no items
        return None
    return items if isinstance(items, list) else None


def has_surrogates(text: str) -> bool:
    """Whether a text holds halves of characters, which no encoding can write."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _is_scalar(value: Any) -> bool:
    """Not an array with dimensions, and neither of bools nor of complex numbers."""
    kind = str(getattr(value, "dtype", ""))
    return getattr(value, "ndim", 0) == 0 and "bool" not in kind and "complex" not in kind
