"""What every request passes: who may come in, and the line about it in the log."""

from __future__ import annotations

import hmac
import ipaddress
import time
import uuid

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from draftgraph.server.errors import ApiError
from draftgraph.server.service import Service

OPEN = frozenset({"/", "/health", "/metrics"})
"""Paths that need no key: they tell nothing about prompts, and monitors read them."""


class Door:
    """ASGI middleware: checks the key and the host, counts errors, writes the log."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0
        state = scope.setdefault("state", {})
        state["id"], state["told"] = uuid.uuid4().hex, {}

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", state["id"].encode())]
            await send(message)

        try:
            refused = self._refused(scope["path"], Headers(scope=scope))
            if refused is None:
                await self._app(scope, receive, sent)
            else:
                answer = JSONResponse(refused.to_dict(), refused.status, headers=dict(refused.headers))
                await answer(scope, receive, sent)
        finally:
            self._write(scope, state, status or 499, time.monotonic() - begun)

    def _refused(self, path: str, headers: Headers) -> ApiError | None:
        settings = self._service.settings
        if settings.api_key is not None and path not in OPEN:
            kind, _, key = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), settings.api_key.encode()):
                return ApiError(
                    401, "the API key is missing or wrong; send Authorization: Bearer KEY", code="invalid_api_key"
                )
        if settings.api_key is None and settings.is_loopback and not _is_local(headers.get("host", "")):
            return ApiError(
                403,
                "a server without an API key answers to localhost alone, so that no web page reaches it by another name; "
                "start it with --api-key",
                code="host_not_allowed",
            )
        return None

    def _write(self, scope: Scope, state: dict[str, object], status: int, seconds: float) -> None:
        if status >= 400:
            self._service.metrics.error(status)
        told = state["told"]
        assert isinstance(told, dict)
        level = "info" if status < 500 else "error"
        self._service.log.write(
            level, "request", id=state["id"], method=scope["method"], path=scope["path"], status=status,
            seconds=round(seconds, 4), **told,
        )  # fmt: skip


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine, or an address, which no other name can be made to be."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower()
    if name in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
