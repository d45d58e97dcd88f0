"""What form the text must have: `response_format`, `structured_outputs`, and tools that must be called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from draftgraph.server.errors import ApiError
from draftgraph.server.schemas import ChosenTool, Sampled, Tool


def grammar_of(asked: Sampled, tools: Sequence[Tool] = (), choice: str | ChosenTool | None = None) -> dict[str, Any]:
    """What SamplingParams is told about a grammar. Raises ApiError."""
    if asked.response_format is not None and asked.response_format.type != "text":
        raise ApiError(
            400, "response_format is not supported yet; leave it out", "response_format", "unsupported_parameter"
        )
    if asked.structured_outputs is not None:
        raise ApiError(400, "structured_outputs are not supported yet", "structured_outputs", "unsupported_parameter")
    if choice == "required" or isinstance(choice, ChosenTool):
        raise ApiError(400, "tool_choice can be auto or none", "tool_choice", "unsupported_value")
    return {}
