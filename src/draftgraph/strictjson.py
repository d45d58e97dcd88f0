"""JSON read strictly: no number that is none, no key twice, no half characters, and every value of its declared type."""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from draftgraph.files import BrokenFileError

MOST_DIGITS = 300
"""Integers with more digits are beyond a double."""
_HALF = re.compile(r"[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse(text: str) -> Any:
    """The value that `text` says. Raises BrokenFileError, with the cause, for anything that is not strict JSON."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_members,
            parse_constant=_refuse_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except BrokenFileError:
        raise
    except RecursionError:
        raise BrokenFileError("it is nested too deeply") from None
    except ValueError as error:
        raise BrokenFileError(f"not JSON ({error})") from None
    if _ESCAPED_HALF.search(text) or _HALF.search(text):
        _refuse_halves(value)
    return value


def build(kind: Any, value: Any, where: str) -> Any:
    """`value` as what an annotation asks for: a dataclass, a list, a dict, a number, a text.

    where  names the value in messages. Raises BrokenFileError, with the place, if it is something else.
    """
    parts, origin = get_args(kind), get_origin(kind)
    if origin in (types.UnionType, Union):
        kinds = [part for part in parts if part is not types.NoneType]
        return None if value is None else build(kinds[0], value, where)
    if is_dataclass(kind):
        return _build_record(kind, value, where)
    if origin is dict and isinstance(value, dict):
        return _build_dict(parts, value, where)
    if origin in (list, tuple, Sequence) and isinstance(value, list):
        return _build_list(kind, value, where)
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if type(value) is not kind:
        raise BrokenFileError(f"{where} is {seen(value)}, not {getattr(kind, '__name__', kind)}")
    return value


def seen(value: Any) -> str:
    """A value in a message: what it is, or its beginning."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(str(value)[:40])


def _build_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BrokenFileError(f"{where} is {seen(value)}, not an object")
    names = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is field.default_factory is MISSING}
    said = set(value)
    if wrong := sorted((needed - said) | (said - names)):
        raise BrokenFileError(f"{where} lacks, or has unexpected, {', '.join(repr(name[:40]) for name in wrong[:4])}")
    hints = get_type_hints(kind)
    return kind(**{name: build(hints[name], value[name], f"{where}: {name}") for name in said})


def _build_list(kind: Any, value: list[Any], where: str) -> Any:
    parts, origin = get_args(kind), get_origin(kind)
    fixed = origin is tuple and parts[-1] is not Ellipsis
    if fixed and len(value) != len(parts):
        raise BrokenFileError(f"{where} has {len(value)} entries, not {len(parts)}")
    if not fixed and parts[0] is float and all(type(each) is float and math.isfinite(each) for each in value):
        return tuple(value) if origin is tuple else list(value)  # thousands of numbers, as a kept graph has
    kinds = parts if fixed else parts[:1] * len(value)
    built = [build(part, each, f"{where}, number {i}") for i, (part, each) in enumerate(zip(kinds, value, strict=True))]
    return tuple(built) if origin is tuple else built


def _build_dict(parts: tuple[Any, ...], value: dict[str, Any], where: str) -> dict[Any, Any]:
    built = {_key(parts[0], key, where): build(parts[1], each, f"{where}, {key[:40]!r}") for key, each in value.items()}
    if len(built) != len(value):
        raise BrokenFileError(f"{where} has a key twice")
    return built


def _key(kind: Any, key: str, where: str) -> Any:
    if kind is int and not (key.isascii() and key.isdecimal() and len(key) <= MOST_DIGITS):
        raise BrokenFileError(f"{where} has the key {key[:40]!r}, not a whole number")
    return kind(key)


def _members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BrokenFileError(f"the key {twice[:40]!r} is there twice")
    return found


def _refuse_constant(name: str) -> None:
    raise BrokenFileError(f"{name} is not a number")


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise BrokenFileError(f"{digits[:40]} is beyond a double")
    return number


def _int(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise BrokenFileError(f"a number of {len(digits)} digits is beyond a double")
    return int(digits)


def _refuse_halves(value: Any) -> None:
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            pending += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            pending += each
        elif isinstance(each, str) and _HALF.search(each):
            raise BrokenFileError("a text holds half of a surrogate pair")
