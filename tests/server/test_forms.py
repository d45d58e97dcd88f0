"""Answers of a stated form from a real server: JSON, schemas, expressions, choices, and tools that must be called."""

from __future__ import annotations

import json
import re
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field

from served import Served

ASKED = [{"role": "user", "content": "describe a fruit as JSON"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["apple", "pear", "plum"]},
        "weight": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["name", "weight"],
    "additionalProperties": False,
}


def tool(name: str) -> dict:
    return {"type": "function", "function": {"name": name, "description": "weighs", "parameters": SCHEMA}}


def chat(server: Served, **options):
    fields = {"model": "bundled", "messages": ASKED, "max_tokens": 100, "temperature": 1, "seed": 3} | options
    return server.client.chat.completions.create(**fields)


def follows(text: str) -> bool:
    value = json.loads(text)
    return (
        value.keys() == {"name", "weight"} and value["name"] in ("apple", "pear", "plum") and 1 <= value["weight"] <= 99
    )


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_schema_is_followed_streamed_or_not(server: Served, temperature):
    form = {"type": "json_schema", "json_schema": {"name": "fruit", "schema": SCHEMA, "strict": True}}
    answer = chat(server, response_format=form, temperature=temperature)
    assert answer.choices[0].finish_reason == "stop"
    assert follows(answer.choices[0].message.content)
    stream = chat(server, response_format=form, temperature=temperature, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer.choices[0].message.content


def test_the_client_s_own_classes_are_filled(server: Served):
    class Fruit(BaseModel):
        name: Literal["apple", "pear"]
        weight: int = Field(ge=1, le=99)

    parsed = server.client.chat.completions.parse(
        model="bundled", messages=ASKED, max_tokens=100, temperature=0, response_format=Fruit
    )
    assert isinstance(parsed.choices[0].message.parsed, Fruit)


def test_any_json_object_is_one(server: Served):
    answer = chat(server, response_format={"type": "json_object"}, temperature=0, max_tokens=200)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    assert answer.choices[0].message.content.startswith("{")


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({"regex": r"[ab]{3}-\d{2}"}, lambda text: re.fullmatch(r"[ab]{3}-\d{2}", text)),
        ({"choice": ["yes", 'no "\\n"\n', "[maybe]"]}, lambda text: text in ("yes", 'no "\\n"\n', "[maybe]")),
        ({"json": SCHEMA}, follows),
        ({"json": json.dumps(SCHEMA)}, follows),
        ({"grammar": 'start: "x" | "y" start'}, lambda text: re.fullmatch("y*x", text)),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else "",
)
def test_structured_outputs_are_vllm_s(server: Served, wanted, matches):
    for seed in range(3):
        options = {"temperature": 1.0, "seed": seed, "max_tokens": 300, "extra_body": {"structured_outputs": wanted}}
        answer = server.client.completions.create(model="bundled", prompt="x = ", **options)
        assert answer.choices[0].finish_reason == "stop"
        assert matches(answer.choices[0].text), answer.choices[0].text


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weigh"}}], ids=["any", "named"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called_is_called(server: Served, choice, stream):
    answer = chat(server, tools=[tool("weigh"), tool("taste")], tool_choice=choice, stream=stream)
    if stream:
        chunks = [chunk.choices[0] for chunk in answer]
        calls = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
        assert not any(chunk.delta.content for chunk in chunks)
        reason = chunks[-1].finish_reason
    else:
        calls, reason = answer.choices[0].message.tool_calls, answer.choices[0].finish_reason
        assert answer.choices[0].message.content is None
    assert (len(calls), reason) == (1, "tool_calls")
    assert calls[0].function.name in (("weigh", "taste") if choice == "required" else ("weigh",))
    assert follows(calls[0].function.arguments)
    assert calls[0].id.startswith("call_")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
            "response_format",
        ),
        ({"structured_outputs": {"regex": "(", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "no grammar"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "structured_outputs"),
        ({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [tool("f"), tool("f")]}, "tools"),
        ({"tools": [tool("f g")]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
    ids=str,
)
def test_forms_that_are_none_are_refused_by_name(server: Served, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        server.client.chat.completions.create(model="bundled", messages=ASKED, max_tokens=5, extra_body=fields)
    assert refused.value.param == param, refused.value
