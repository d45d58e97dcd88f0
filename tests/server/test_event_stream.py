"""What a stream sends, and when its place is free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from draftgraph.server.event_stream import DONE, EventStream


def test_a_place_is_free_before_the_client_is_told_that_it_is_done() -> None:
    """It may send its next request at once, where only one may run."""
    happened: list[Any] = []

    async def chunks() -> AsyncIterator[dict[str, int]]:
        yield {"number": 1}

    async def send(message: Any) -> None:
        happened.append(message.get("body", message["type"]))

    async def receive() -> Any:
        await asyncio.sleep(60)

    stream = EventStream(chunks(), lambda: happened.append("closed"), 60.0)
    asyncio.run(stream({"type": "http"}, receive, send))
    assert happened[:4] == ["http.response.start", b'data: {"number":1}\n\n', "closed", DONE]
