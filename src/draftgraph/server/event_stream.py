"""Server-sent events: one `data:` line with JSON per chunk, and `data: [DONE]` at the end, whatever happened before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """Sends chunks as they come. A client that goes away ends the request at once.

    chunks   objects to send. close  called at the end, whatever it was. seconds  that the client has to read everything.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[Mapping[str, Any]], close: Callable[[], None], seconds: float) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks, self._close, self._seconds = chunks, close, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.ensure_future(self._write(send))
        watcher = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait({writer, watcher}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
        finally:
            for task in (writer, watcher):
                task.cancel()
            self._close()
            await asyncio.wait({writer, watcher})

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": as_data(chunk), "more_body": True})
        await send({"type": "http.response.body", "body": DONE, "more_body": False})


def as_data(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def gone(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
