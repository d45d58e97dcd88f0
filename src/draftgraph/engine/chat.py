"""Conversations: messages as a chat model was trained to read them, by its tokenizer's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from draftgraph.engine.prompts import refuse_surrogates
from draftgraph.errors import PromptError, brief
from draftgraph.values import as_list

Messages = str | Sequence[Mapping[str, str]]

POSSIBLE = 'write a text, or a list of messages like {"role": "user", "content": "..."}'
_QUESTION = "What is asked here?"


def split(messages: Any) -> tuple[list[Any], bool]:
    """The conversations of a call, each a text or a list of messages, and whether they came as a batch.

    Raises PromptError.
    """
    if isinstance(messages, str):
        return [messages], False
    items = as_list(messages)
    if not items:
        raise PromptError(f"there are no messages in {brief(messages)}; {POSSIBLE}")
    conversations = [item if isinstance(item, str) else as_list(item) for item in items]
    is_batch = all(conversation is not None for conversation in conversations)
    return (conversations, True) if is_batch else ([items], False)


def encode(conversation: str | Sequence[Any], tokenizer: Any | None) -> list[int]:
    """The token ids of one conversation, up to where the model's answer begins. Raises PromptError."""
    if not has_template(tokenizer):
        lacks = "messages need a tokenizer" if tokenizer is None else "the tokenizer has no chat template"
        raise PromptError(
            f"{lacks}; write the prompt as the model was trained to read it, engine.generate(text), "
            "or set tokenizer.chat_template"
        )
    assert tokenizer is not None
    messages = _messages(conversation)
    try:
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    except Exception as error:
        raise PromptError(f"the chat template refuses these messages: {type(error).__name__}: {error}") from error


def has_template(tokenizer: Any | None) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def markers(tokenizer: Any) -> list[str]:
    """What every text made by the chat template contains; empty if that cannot be told.

    That is what stands between a question and its answer, or a special token in it.
    """
    question = [{"role": "user", "content": _QUESTION}]
    try:
        text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        between = text.rpartition(_QUESTION)[2].strip()
        special = [token for token in tokenizer.all_special_tokens if token in between]
    except Exception:  # a template that wants other messages
        return []
    return [between, *special] if between else []


def _messages(conversation: str | Sequence[Any]) -> list[dict[str, str]]:
    if isinstance(conversation, str):
        conversation = [{"role": "user", "content": conversation}]
    if not conversation:
        raise PromptError(f"a conversation has no messages; {POSSIBLE}")
    return [_message(message, position) for position, message in enumerate(conversation)]


def _message(message: Any, position: int) -> dict[str, str]:
    which = f"message {position}"
    if not isinstance(message, Mapping):
        raise PromptError(f"{which} is {brief(message)}; {POSSIBLE}")
    fields = {name: value for name, value in message.items() if value is not None}
    for name in ("role", "content"):
        if not isinstance(fields.get(name), str):
            raise PromptError(f"{which} has {name}={brief(message.get(name))}, and it must be a text; {POSSIBLE}")
        refuse_surrogates(fields[name])
    unread = [name for name in fields if name not in ("role", "content")]
    if unread:
        raise PromptError(
            f"{which} has {brief(unread[0])}, and a message is role and content. Leave it out, or write "
            "engine.generate(tokenizer.apply_chat_template(messages, ...)), which may read it"
        )
    if not fields["role"].strip():
        raise PromptError(f"{which} has an empty role; write 'user', 'assistant' or 'system'")
    return {"role": fields["role"], "content": fields["content"]}
