"""Token ids of what a request says: the messages of a chat by the model's template, or prompts as they are."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from draftgraph.engine.chat import has_template
from draftgraph.engine.engine import Engine
from draftgraph.engine.prompts import encode
from draftgraph.errors import PromptError
from draftgraph.server.errors import ApiError
from draftgraph.server.schemas import Message, Prompts, TextPart, Tool

NO_TEMPLATE = (
    "the model has no chat template; write the prompt as the model was trained to read it, to /v1/completions, or start "
    "the server with --chat-template FILE"
)


def chat_ids(
    engine: Engine,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    template_options: Mapping[str, Any] | None = None,
    answers: bool = True,
) -> list[int]:
    """The ids of a conversation; with `answers` up to where the model's answer begins. Raises ApiError."""
    tokenizer = engine.tokenizer
    if not has_template(tokenizer):
        raise ApiError(400, NO_TEMPLATE, "messages", "no_chat_template")
    assert tokenizer is not None
    options = dict(template_options or {})
    template = json.dumps(tokenizer.chat_template)
    _refuse_unread(options, template, tokenizer)
    if tools:
        if "tools" not in template:
            raise ApiError(
                400, "the model's chat template reads no tools; leave them out", "tools", "unsupported_value"
            )
        options["tools"] = [tool.model_dump(exclude_none=True) for tool in tools]
    spoken = [_message(message, f"messages[{position}]") for position, message in enumerate(messages)]
    try:
        ids = tokenizer.apply_chat_template(spoken, add_generation_prompt=answers, return_dict=False, **options)
    except Exception as error:  # a template is a program, and raises what it likes
        raise ApiError(400, f"the chat template refuses these messages: {error}", "messages") from error
    return list(ids)


def prompt_ids(engine: Engine, prompt: Prompts) -> list[list[int]]:
    """The ids of every prompt of a completion. Raises ApiError."""
    several = isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt)
    prompts: list[Any] = list(prompt) if several else [prompt]
    return [_encoded(engine, each, f"prompt[{i}]" if several else "prompt") for i, each in enumerate(prompts)]


def text_of(content: str | Sequence[TextPart] | None) -> str:
    """A content as one text; parts are lines, as in vLLM."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content)


def _encoded(engine: Engine, prompt: Any, param: str) -> list[int]:
    try:
        return encode(prompt, engine.tokenizer, engine.target.vocab_size)
    except PromptError as error:
        raise ApiError(400, str(error), param, "invalid_value") from error


def _message(message: Message, where: str) -> dict[str, Any]:
    """A message as templates read it: a text, and arguments of tools as objects."""
    if message.content is None and not message.tool_calls:
        raise ApiError(400, f"{where} has no content; write a text", f"{where}.content", "missing_required_parameter")
    role = "system" if message.role == "developer" else message.role
    spoken: dict[str, Any] = {"role": role, "content": text_of(message.content)}
    for name in ("name", "tool_call_id"):
        if getattr(message, name) is not None:
            spoken[name] = getattr(message, name)
    if message.tool_calls:
        spoken["tool_calls"] = [_called(call.model_dump(exclude_none=True)) for call in message.tool_calls]
    return spoken


def _called(call: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = json.loads(call["function"]["arguments"])
    except ValueError:
        return call
    return call | {"function": call["function"] | {"arguments": arguments}}


def _refuse_unread(options: Mapping[str, Any], template: str, tokenizer: Any) -> None:
    own = inspect.signature(tokenizer.apply_chat_template).parameters
    for name in options:
        if name in own or name not in template:
            why = "is decided by the server" if name in own else "is not read by the model's chat template"
            param = f"chat_template_kwargs.{name}"[:200]
            raise ApiError(400, f"{param} {why}; leave it out", param, "unsupported_parameter")
