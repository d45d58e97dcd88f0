"""`POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`, in vLLM's schema."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from draftgraph.errors import brief
from draftgraph.server.body import read_body
from draftgraph.server.errors import ApiError
from draftgraph.server.prompts import chat_ids
from draftgraph.server.schemas import DetokenizeRequest, TokenizeRequest
from draftgraph.server.service import Service


async def tokenize(request: Request, service: Service) -> Response:
    """The token ids of a prompt, or of the messages of a chat. Raises ApiError."""
    asked = await read_body(request, TokenizeRequest, service.settings.max_body_bytes)
    service.check_model(asked.model)
    ids = await asyncio.to_thread(_ids, service, asked)
    answer: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": service.engine.target.context_window,
        "tokens": ids,
        "token_strs": [service.texts.text_of(token) for token in ids] if asked.return_token_strs else None,
    }
    return JSONResponse(answer)


async def detokenize(request: Request, service: Service) -> Response:
    """The text of token ids, special ones included. Raises ApiError."""
    asked = await read_body(request, DetokenizeRequest, service.settings.max_body_bytes)
    service.check_model(asked.model)
    vocab = service.engine.target.vocab_size
    wrong = next((token for token in asked.tokens if not 0 <= token < vocab), None)
    if wrong is not None:
        raise ApiError(400, f"token id {brief(wrong)} is outside the vocabulary of {vocab}", "tokens", "invalid_value")
    tokenizer: Any = service.engine.tokenizer
    text = await asyncio.to_thread(tokenizer.decode, asked.tokens, skip_special_tokens=False)
    return JSONResponse({"prompt": text})


async def tokenizer_info(request: Request, service: Service) -> Response:
    """What lm_eval asks a remote tokenizer."""
    tokenizer: Any = service.engine.tokenizer
    names = ("bos_token", "eos_token", "pad_token", "chat_template")
    return JSONResponse({name: getattr(tokenizer, name, None) for name in names})


def _ids(service: Service, asked: TokenizeRequest) -> list[int]:
    if (asked.prompt is None) == (asked.messages is None):
        raise ApiError(400, "write either prompt or messages", "prompt", "invalid_value")
    if asked.messages is not None:
        if asked.add_special_tokens:
            raise ApiError(400, "the chat template adds special tokens; leave this out", "add_special_tokens")
        answers = asked.add_generation_prompt is not False
        return chat_ids(service.engine, asked.messages, asked.tools or (), asked.chat_template_kwargs, answers)
    for name in ("tools", "chat_template_kwargs", "add_generation_prompt"):
        if getattr(asked, name) is not None:
            raise ApiError(400, f"{name} belongs to messages, not to a prompt; leave it out", name)
    tokenizer: Any = service.engine.tokenizer
    special = asked.add_special_tokens is not False
    return list(tokenizer(asked.prompt, add_special_tokens=special)["input_ids"])
