"""What form the text must have: `response_format`, `structured_outputs`, and tools that must be called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from draftgraph.engine.engine import Engine
from draftgraph.errors import OptionError
from draftgraph.sampling.grammar import Grammar
from draftgraph.server.errors import ApiError
from draftgraph.server.schemas import ChosenTool, Sampled, StructuredOutputs, Tool

_LARK_CHARACTERS = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def grammar_of(
    engine: Engine, asked: Sampled, tools: Sequence[Tool] = (), choice: str | ChosenTool | None = None
) -> dict[str, Any]:
    """What SamplingParams is told about a grammar: nothing where the text is free. Raises ApiError.

    Reading a grammar may take a while; the engine keeps it.
    """
    found = {
        "response_format": _of_format(asked),
        "structured_outputs": _of_structure(asked.structured_outputs),
        "tool_choice": _of_tools(tools, choice),
    }
    named = {name: grammar for name, grammar in found.items() if grammar is not None}
    if len(named) > 1:
        first, second = list(named)[:2]
        raise ApiError(400, f"{first} and {second} both say what the text must be; write one of them", second)
    for name, grammar in named.items():
        try:
            engine.grammars.states(grammar, engine.eos, frozenset())
        except OptionError as error:
            raise ApiError(400, str(error), name, "invalid_value") from error
        return {"grammar": grammar}
    return {}


def _of_format(asked: Sampled) -> Grammar | None:
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return Grammar.json()
    if wanted.json_schema is None:
        raise ApiError(400, "response_format.json_schema is missing", "response_format.json_schema", "invalid_value")
    return Grammar.json(wanted.json_schema.schema_)


def _of_structure(wanted: StructuredOutputs | None) -> Grammar | None:
    if wanted is None:
        return None
    said = wanted.model_dump(exclude_none=True, by_alias=True)
    if len(said) != 1 or wanted.json_object is False:
        raise ApiError(
            400,
            "structured_outputs says one thing: json, regex, choice, grammar or json_object: true",
            "structured_outputs",
        )
    try:
        if wanted.regex is not None:
            return Grammar.regex(wanted.regex)
        if wanted.grammar is not None:
            return Grammar.lark(wanted.grammar)
        if wanted.choice is not None:
            return Grammar.lark("start: " + " | ".join(map(_literal, wanted.choice)))
        return Grammar.json(wanted.json_)
    except OptionError as error:
        raise ApiError(400, str(error), "structured_outputs", "invalid_value") from error


def _of_tools(tools: Sequence[Tool], choice: str | ChosenTool | None) -> Grammar | None:
    """A call of one of the tools that must be called, as JSON that `tool_calls` reads."""
    if choice == "required":
        called = list(tools)
    elif isinstance(choice, ChosenTool):
        called = [tool for tool in tools if tool.function.name == choice.function.name]
    else:
        return None
    return Grammar.json({"anyOf": [_call_schema(tool) for tool in called]}, whitespace=False)


def _call_schema(tool: Tool) -> dict[str, Any]:
    arguments = tool.function.parameters or {"type": "object"}
    return {
        "type": "object",
        "properties": {"name": {"const": tool.function.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _literal(text: str) -> str:
    """A text as a string of Lark."""
    return '"' + "".join(_LARK_CHARACTERS.get(letter, letter) for letter in text) + '"'
