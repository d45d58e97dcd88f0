"""Errors as OpenAI's clients read them: a status, and an object that names the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from draftgraph.errors import DraftgraphError, OptionError, PromptError, QueueFullError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
"""The `type` of an error by its status; others are the server's own."""
RETRY_SECONDS = "1"
"""When a client may ask again, after 429 and 503."""


class ApiError(DraftgraphError):
    """An answer that is an error.

    status   of HTTP.
    message  what was asked, what is possible, what to write instead.
    param    the field of the request, e.g. "messages[0].content".
    code     what programs look for, e.g. "model_not_found".
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def to_dict(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> Mapping[str, str]:
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": RETRY_SECONDS} if self.status in (429, 503) else {}


def as_api_error(error: BaseException, names: Mapping[str, str]) -> ApiError:
    """What a client is told about an error of the engine.

    names  the engine's names of options, each with the request's own. The first that the message mentions is the field.

    Errors that nobody foresaw tell nothing of the inside; the log has them.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OptionError | PromptError):
        message = str(error)
        words = re.findall(r"\w+", message)
        param = next(
            (names[word] for word in words if word in names), "prompt" if isinstance(error, PromptError) else None
        )
        return ApiError(400, message, param)
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), code="queue_full")
    if isinstance(error, DraftgraphError):
        return ApiError(500, str(error), code=type(error).__name__)
    return ApiError(500, "the server failed at this request; its log says why", code="internal_error")
