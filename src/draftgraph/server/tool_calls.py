"""Calls of tools in a model's text, in the forms that chat models are trained to write.

Understood are JSON objects with a name and arguments or parameters, alone, in lists, or in tags; `<function=name>…</function>`
with JSON or `<parameter=…>` inside; and calls in Python, `[name(key=value)]`. A text that is anything else stays a text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

OPENERS = (
    "<tool_call>", "<tool_calls>", "<function_call>", "<|tool_call|>", "<|tool_calls|>", "<|tool_call_start|>", "<|python_tag|>",
    "[TOOL_CALLS]", "<function=",
)  # fmt: skip
"""What a call may begin with. A text that begins with a bracket may be one as well."""
_BARE = ("{", "[")
_TAG = re.compile(r"</?\w+>|<\|\w+\|>|\[/?TOOL_CALLS\]")
_BETWEEN = re.compile(rf"{_TAG.pattern}|[\s,;]+")
_FUNCTION = re.compile(r"<function=([\w.-]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([\w.-]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True)
class ToolCall:
    """arguments  a JSON text, as clients read it."""

    name: str
    arguments: str


class ToolReader:
    """Reads a text as it comes: what is certainly no call is given away, what may become one is held back.

    names  of the tools that there are.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held, self._begun, self._said = "", False, False

    def push(self, text: str) -> str:
        """The text that is certain to be shown, now that `text` follows."""
        self._held += text
        if self._begun or not self._held.strip():
            return ""
        if not self._said and self._held.lstrip().startswith(_BARE):
            self._begun = True
            return ""
        at = min((found for opener in OPENERS if (found := self._held.find(opener)) >= 0), default=None)
        self._begun = at is not None
        end = len(self._held) - _unsure(self._held) if at is None else len(self._held[:at].rstrip())
        shown, self._held = self._held[:end], self._held[end:]
        self._said = self._said or bool(shown)
        return shown

    def finish(self) -> tuple[str, list[ToolCall]]:
        """What was held back, once nothing can follow: a text, or calls."""
        calls = read_calls(self._held, self._names) if self._begun else []
        return ("" if calls else self._held), calls


def read_calls(text: str, names: Collection[str]) -> list[ToolCall]:
    """The calls that a text consists of; none if it holds anything else, or the name of a tool that there is not."""
    calls = _xml_calls(text) or _json_calls(text) or _python_calls(text)
    return calls if all(call.name in names for call in calls) else []


def _unsure(text: str) -> int:
    """Length of the end of a text that may begin a call, with the spaces before it."""
    begun = (n for n in range(min(len(text), max(map(len, OPENERS)) - 1), 0, -1) if _begins(text[-n:]))
    length = next(begun, 0)
    return len(text) - len(text[: len(text) - length].rstrip())


def _begins(end: str) -> bool:
    return any(opener.startswith(end) for opener in OPENERS)


def _xml_calls(text: str) -> list[ToolCall]:
    calls = []
    for name, inside in _FUNCTION.findall(text):
        named = _PARAMETER.findall(inside)
        arguments: Any = {key: _value(value) for key, value in named}
        if inside.strip() and not named:
            arguments = _value(inside.strip())
        if not isinstance(arguments, dict):
            return []
        calls.append(ToolCall(name, json.dumps(arguments, ensure_ascii=False)))
    return calls if not _BETWEEN.sub("", _FUNCTION.sub("", text)) else []


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _json_calls(text: str) -> list[ToolCall]:
    calls: list[ToolCall] = []
    place, decoder = 0, json.JSONDecoder()
    while place < len(text):
        between = _BETWEEN.match(text, place)
        if between is not None:
            place = between.end()
            continue
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return []
        for each in value if isinstance(value, list) else [value]:
            call = _json_call(each)
            if call is None:
                return []
            calls.append(call)
    return calls


def _json_call(value: Any) -> ToolCall | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments: Any = next((value[name] for name in _ARGUMENTS if name in value), {})
    if isinstance(arguments, str):
        arguments = _value(arguments)
    if not isinstance(arguments, dict):
        return None
    return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False))


def _python_calls(text: str) -> list[ToolCall]:
    """Of `[name(key=value), …]`, where all values are literals."""
    try:
        body = ast.parse(_TAG.sub("", text).strip(), mode="eval").body
        parts = body.elts if isinstance(body, ast.List) else [body]
        return [_python_call(part) for part in parts]
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return []


def _python_call(node: ast.expr) -> ToolCall:
    """Raises ValueError for anything else."""
    if not isinstance(node, ast.Call) or node.args or any(each.arg is None for each in node.keywords):
        raise ValueError("not a call with named arguments")
    arguments = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
    return ToolCall(ast.unparse(node.func), json.dumps(arguments, ensure_ascii=False))
