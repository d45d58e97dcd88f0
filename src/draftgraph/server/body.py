"""The body of a request: bytes, then JSON, then a schema. What is not understood is refused by name."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from draftgraph.errors import brief
from draftgraph.files import BrokenFileError
from draftgraph.server.errors import ApiError
from draftgraph.strictjson import parse

Schema = TypeVar("Schema", bound=BaseModel)

BODY_SECONDS = 60.0
"""How long a client may take to send its request."""
_LARGE = 1 << 16
"""Bodies beyond so many bytes are parsed in a thread, so that other requests go on."""
_JSON = "application/json"
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
"""Names of UTF-8, and of a part of it."""
_UNKNOWN = "extra_forbidden"
_ALTERNATIVES = frozenset({"str", "int", "bool", "float"})
"""Kinds of values that pydantic names in a path, where a field may be of several."""


async def read_body(request: Request, schema: type[Schema], limit: int) -> Schema:
    """The body as a schema. Raises ApiError: 413 beyond `limit` bytes, 415 and 400 for what is not JSON of its form."""
    _refuse_another_type(request.headers.get("content-type", ""))
    body = await _bytes(request, limit)
    if len(body) < _LARGE:
        return understood(body, schema)
    return await asyncio.to_thread(understood, body, schema)


def _refuse_another_type(stated: str) -> None:
    """Raise ApiError 415 for a body that says to be something else than JSON in UTF-8 (RFC 8259 knows no other)."""
    kind, *parameters = [part.strip().lower() for part in stated.split(";")]
    if kind != _JSON:
        raise ApiError(
            415, f"the body is {brief(kind or 'of no type')}; send JSON with the header Content-Type: {_JSON}"
        )
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in _CHARSETS:
            raise ApiError(415, f"the body is in the charset {brief(value.strip())}; send JSON in UTF-8")


def understood(body: bytes, schema: type[Schema]) -> Schema:
    """Bytes as a schema. Raises ApiError 400."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not valid UTF-8 (byte {error.start}); send JSON in UTF-8") from None
    try:
        value = parse(text)
    except BrokenFileError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}; send one JSON object") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body is {_shown(value)}; send one JSON object")
    try:
        return schema.model_validate({name: each for name, each in value.items() if each is not None})
    except ValidationError as error:
        raise _refused(error) from None


async def _bytes(request: Request, limit: int) -> bytes:
    """Raises ApiError 413, before anything beyond the limit is kept."""
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > limit:
        raise _too_large(limit)
    pieces, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
                pieces.append(piece)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {BODY_SECONDS:g} s", code="timeout") from None
    except ClientDisconnect:
        raise ApiError(499, "the client went away before its request was complete") from None
    return b"".join(pieces)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body has more than {limit} bytes; send a shorter one", code="request_too_large")


def _refused(error: ValidationError) -> ApiError:
    """The first thing that is wrong, in OpenAI's form. A field that exists nowhere is told before wrong values."""
    found = error.errors(include_url=False)
    root = next(
        (each["loc"][0] for each in found if each["type"] == _UNKNOWN and len(each["loc"]) == 1), found[0]["loc"][0]
    )
    same = [(_path(each["loc"]), each) for each in found if each["loc"][0] == root]
    param, first = max(same, key=_telling)
    if first["type"] == _UNKNOWN:
        return ApiError(400, f"the field {param!r} is not supported here; leave it out", param, "unsupported_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"the field {param!r} is missing", param, "missing_required_parameter")
    said = " or ".join(dict.fromkeys(_said(each) for path, each in same if path == param))
    return ApiError(400, f"{param}={_shown(first.get('input'))} is not possible: {said}", param, "invalid_value")


def _shown(value: Any) -> str:
    """A value as a client wrote it, in short."""
    return json.dumps(value) if value is None or isinstance(value, bool) else brief(value)


def _telling(found: tuple[str, Any]) -> tuple[int, int]:
    """How much an error tells. Of the alternatives of a union, the one that fits best fails at the deepest place."""
    path, error = found
    return {"literal_error": 2, _UNKNOWN: 1}.get(error["type"], 0), len(path)


def _said(error: Any) -> str:
    """What pydantic says is possible, as the rest of a sentence."""
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _path(parts: tuple[int | str, ...]) -> str:
    """`messages[0].content`: keys and places, without the alternatives of a union, which pydantic names in between."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.endswith("]") and part not in _ALTERNATIVES:
            path += f".{part}" if path else part
    return path[:200]
