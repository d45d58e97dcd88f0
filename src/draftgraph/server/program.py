"""The process: listens, and on SIGTERM lets running requests finish before it ends."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import uvicorn

from draftgraph.errors import OptionError
from draftgraph.server.app import make_app
from draftgraph.server.service import Service

BACKLOG = 2048
"""Connections that may wait to be taken."""
IDLE_SECONDS = 75
"""How long a connection may wait for its next request."""
THREADS = 32
"""For what must not keep the event loop waiting: tokenizers, templates, grammars, scores of prompts."""
LAST_SECONDS = 3
"""What connections get to close, once nothing runs."""


class Program(uvicorn.Server):  # type: ignore[misc]
    """A server that goes on answering while it drains: what runs finishes, what comes is told to go elsewhere.

    A second signal ends it at once.
    """

    def __init__(self, service: Service) -> None:
        config = uvicorn.Config(
            make_app(service),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=LAST_SECONDS,
            timeout_keep_alive=IDLE_SECONDS,
        )
        super().__init__(config)
        self._service, self._signals = service, 0
        self._ends: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        gate = self._service.gate
        if self._signals and not gate.draining:
            self._service.log.write("info", "draining", running=len(gate), seconds=self._service.settings.drain_timeout)
            self._ends = asyncio.get_running_loop().time() + self._service.settings.drain_timeout + 1.0
            gate.drain()
        if self._ends is not None:
            late = asyncio.get_running_loop().time() >= self._ends
            self.should_exit = self._signals > 1 or late or not len(gate)
        ends: bool = await super().on_tick(counter)
        return ends


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OptionError for an address that is not to be had."""
    listening = None
    try:
        address: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(address[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address[4])
        listening.listen(BACKLOG)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise OptionError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; write another --host or --port"
        ) from None
    return listening


def run(service: Service, listening: socket.socket) -> None:
    """Serve until a signal ends it."""
    program = Program(service)
    program.run(sockets=[listening])
