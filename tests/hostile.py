"""Valid JSON files, spoiled at any place: values of other types, numbers that are none, missing and doubled keys, cut text."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

Place = tuple[Any, ...]

SNIPPETS = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, "9" * 5000, "true", "false", "null", "[]", "{}",
    "[[]]", '{"a": 1}', '""', '"x"', '"\\ud800"', '"\\u001b[2J"', '"1"', "-1", "0", "1", "1.5", "1e308", "-0.0", "5e-324",
    str(2**53 + 1), str(2**63), str(-(2**64)), "[" * 50_000 + "]" * 50_000, '{"a":' * 50_000 + "1" + "}" * 50_000,
)  # fmt: skip
"""JSON, or what some take for it, to stand in the place of a value."""
_HERE = "the place that is spoiled"


def places(value: Any, above: Place = ()) -> list[Place]:
    """The way to every value in nested lists and dicts, the whole included."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(way for key, each in members for way in places(each, (*above, key)))]


def planted(value: Any, place: Place, snippet: str) -> str:
    """`value` as JSON text, with `snippet` at `place`."""
    if not place:
        return snippet
    whole = copy.deepcopy(value)
    _above(whole, place)[place[-1]] = _HERE
    return json.dumps(whole).replace(json.dumps(_HERE), snippet)


def without(value: Any, place: Place) -> str:
    """`value` as JSON text, lacking what is at `place`."""
    whole = copy.deepcopy(value)
    if place:
        del _above(whole, place)[place[-1]]
    return json.dumps(whole)


def doubled(value: Any, place: Place) -> str:
    """`value` as JSON text, with the key at `place` twice; unchanged if it is no key."""
    if not place or not isinstance(place[-1], str):
        return json.dumps(value)
    key = json.dumps(place[-1])
    whole = copy.deepcopy(value)
    above = _above(whole, place)
    above[place[-1]] = _HERE
    held = json.dumps(_above(value, place)[place[-1]])
    return json.dumps(whole).replace(json.dumps(_HERE), f"{held}, {key}: {held}")


@st.composite
def spoiled(draw: st.DrawFn, value: Any) -> bytes:
    """The bytes of a file that said `value`, spoiled in one way at one place."""
    place = draw(st.sampled_from(places(value)))
    way = draw(st.sampled_from(["planted"] * 5 + ["without", "doubled", "cut", "utf-16", "utf-32", "zero", "bytes"]))
    if way == "planted":
        return planted(value, place, draw(st.sampled_from(SNIPPETS))).encode()
    if way in ("without", "doubled"):
        return (without if way == "without" else doubled)(value, place).encode()
    text = json.dumps(value)
    at = draw(st.integers(0, len(text)))
    if way == "cut":
        return text[:at].encode()
    if way in ("utf-16", "utf-32"):
        return text.encode(way)
    return text[:at].encode() + (b"\x00" if way == "zero" else draw(st.binary(max_size=4))) + text[at:].encode()


def _above(value: Any, place: Place) -> Any:
    for key in place[:-1]:
        value = value[key]
    return value
