"""Who may come in: so many requests at a time, and none while the server drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from draftgraph.server.errors import ApiError

DRAINING = "the server is shutting down; send the request to another one, or later"


class Gate:
    """Counts requests that are in, and ends them when time is up. It belongs to one event loop.

    most           requests at a time.
    drain_timeout  that they get once the server drains.
    """

    def __init__(self, most: int, drain_timeout: float) -> None:
        self._most, self._drain_timeout = most, drain_timeout
        self._inside: dict[object, Callable[[ApiError], None]] = {}
        self.draining = False

    def __len__(self) -> int:
        return len(self._inside)

    def enter(self, guest: object, fail: Callable[[ApiError], None]) -> None:
        """Let a request in, or raise ApiError: 503 while draining, 429 where there are too many.

        fail  ends the request with an error, if its time is up.
        """
        self.refuse_draining()
        if len(self._inside) >= self._most:
            raise ApiError(
                429,
                f"{self._most} requests are running and waiting, as many as may; ask again in a moment",
                code="queue_full",
            )
        self._inside[guest] = fail

    def leave(self, guest: object) -> None:
        self._inside.pop(guest, None)

    def refuse_draining(self) -> None:
        if self.draining:
            raise ApiError(503, DRAINING, code="draining")

    def drain(self) -> None:
        """Let nobody in any more. Who is inside gets its time, then an error."""
        if not self.draining:
            self.draining = True
            asyncio.get_running_loop().call_later(self._drain_timeout, self._end_all)

    def _end_all(self) -> None:
        for fail in list(self._inside.values()):
            fail(
                ApiError(503, f"the server shuts down, and {self._drain_timeout:g} s were not enough", code="draining")
            )
