"""Keywords of JSON schemas: misspelt ones are named, wherever they stand, and notes of one's own are left alone."""

from __future__ import annotations

from typing import Any

import pytest

import draftgraph as dg
from draftgraph.errors import OptionError


@pytest.mark.parametrize(
    ("schema", "wrong", "meant"),
    [
        pytest.param({"type": "object", "propertys": {}}, "propertys", "properties", id="at the top"),
        pytest.param(
            {"properties": {"a": {"type": "string", "maxlength": 3}}}, "maxlength", "maxLength", id="in a property"
        ),
        pytest.param({"anyOf": [{"enumm": [1]}]}, "enumm", "enum", id="in a list"),
        pytest.param({"$defs": {"a": {"items": {"requierd": []}}}}, "requierd", "required", id="below a definition"),
        pytest.param({"additionalProperties": {"minimun": 1}}, "minimun", "minimum", id="of other properties"),
        pytest.param({"Type": "string"}, "Type", "type", id="in capitals"),
        pytest.param({"maxlenght": 3}, "maxlenght", "maxLength", id="in lower case"),
        pytest.param({"dependencies": {"a": {"requred": []}}}, "requred", "required", id="below a dependency"),
    ],
)
def test_a_misspelt_keyword_is_named(schema: dict[str, Any], wrong: str, meant: str) -> None:
    with pytest.raises(OptionError, match=f"'{wrong}'.*'{meant}'"):
        dg.Grammar.json(schema)


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "object", "properties": {"maxlength": {"type": "string"}}}, id="a property of that name"),
        pytest.param({"const": {"propertys": 1}, "default": {"enumm": 1}}, id="values"),
        pytest.param({"type": "string", "x-order": 1, "unit": "m", "propertyOrdering": []}, id="notes"),
        pytest.param({"idx": 1, "defaults": 2, "descriptions": "d"}, id="notes that resemble annotations"),
        pytest.param({"type": "string", "description": "d", "examples": ["a"], "$comment": "c"}, id="annotations"),
        pytest.param({"enum": ["a"], "anyOf": "broken", "properties": [], "items": True}, id="what is no schema"),
    ],
)
def test_names_that_are_no_keywords_are_left_alone(schema: dict[str, Any]) -> None:
    assert dg.Grammar.json(schema).kind == "json"


def test_a_schema_that_holds_itself_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["properties"] = {"a": schema}
    with pytest.raises(OptionError, match="cannot be written as JSON"):
        dg.Grammar.json(schema)
