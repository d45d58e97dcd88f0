"""Calls of tools, in the forms that models write them, whole and piece by piece."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.server.tool_calls import ToolCall, ToolReader, read_calls

NAMES = {"f", "get_weather"}
ONE = [("f", {"a": 1})]
TWO = [("get_weather", {"city": "Ulm, Ü"}), ("f", {})]
CALLS = {
    "hermes": ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', ONE),
    "hermes, two": (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Ulm, Ü"}}</tool_call>\n'
        '<tool_call>{"name": "f", "arguments": {}}</tool_call>',
        TWO,
    ),
    "mistral": ('[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]', ONE),
    "its special token is not shown": (' [{"name": "f", "arguments": {"a": 1}}]', ONE),
    "llama": ('{"name": "f", "parameters": {"a": 1}}', ONE),
    "llama, python tag": ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}', ONE),
    "openai": ('{"type": "function", "function": {"name": "f", "arguments": "{\\"a\\": 1}"}}', ONE),
    "function tag": ('<function=f>{"a": 1}</function>', ONE),
    "parameters in tags": (
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
        ONE,
    ),
    "python": ('[get_weather(city="Ulm, Ü"), f()]', TWO),
    "python in tags": ("<|tool_call_start|>[f(a=1)]<|tool_call_end|>", ONE),
    "granite": ('<|tool_call|>[{"name": "f", "arguments": {"a": 1}}]', ONE),
}
TEXTS = [
    "", "  ", "Hello.", "1 < 2 <tool", '{"a": 1}', "[1, 2]", "[f(1)]", "[x for x in y]", '{"name": "g", "arguments": {}}',
    '{"name": "f", "arguments": [1]}', '{"name": "f"', '<tool_call>{"name": "f", "arguments": {}} and more',
    "<function=g>{}</function>",
    "[TOOL_CALLS]", "[" * 5000, "[f(a=open('x'))]", '{"name": ["f"], "arguments": {}}',
]  # fmt: skip
"""What is no call of a tool that there is."""


def read(pieces) -> tuple[str, list[ToolCall]]:
    reader = ToolReader(NAMES)
    shown = "".join([reader.push(piece) for piece in pieces])
    rest, calls = reader.finish()
    return shown + rest, calls


@pytest.mark.parametrize("form", CALLS)
def test_calls_of_every_form_are_read(form):
    text, expected = CALLS[form]
    shown, calls = read([text])
    assert [(call.name, json.loads(call.arguments)) for call in calls] == expected
    assert shown == ""
    assert read(text) == (shown, calls), "letter by letter"


@pytest.mark.parametrize("form", ["hermes", "function tag", "python in tags"])
def test_a_text_before_a_call_is_shown_without_the_space_between(form):
    text, expected = CALLS[form]
    for pieces in (["Let me see.\n\n" + text], "Let me see.\n\n" + text):
        shown, calls = read(pieces)
        assert (shown, len(calls)) == ("Let me see.", len(expected))


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:20])
def test_any_other_text_stays_as_it_is(text):
    assert read([text]) == read(text) == (text, [])


@given(
    st.lists(
        st.sampled_from(["<tool_call>", "</tool_call>", "[", "]", "{", '"name": "f"', " ", "f(", ")", "<", "x", "\n"]),
        max_size=8,
    ),
    st.integers(1, 5),
)
def test_pieces_change_nothing_and_no_text_is_lost(parts, size):
    text = "".join(parts)
    whole = read([text])
    assert read([text[at : at + size] for at in range(0, len(text), size)]) == whole
    assert whole[1] or whole[0] == text


def test_a_call_of_an_unknown_tool_spoils_all():
    assert read_calls('[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]', NAMES) == []
