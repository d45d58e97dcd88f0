"""One server by HTTP: a JSON body goes in, a JSON object comes out. Connections are kept, and a busy server is asked again.

It stands on the standard library: an audit needs nothing but POST on kept connections, and so every installation can audit.
Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from draftgraph.errors import DraftgraphError, OptionError, brief, first_line

BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""Answers after which the same question may be asked again."""
TRIES = 6
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
"""The wait before the second try doubles with every further one. `Retry-After` is honoured up to the longest."""
LARGEST_ANSWER = 1 << 24
"""Bytes; a longer answer is no completion of a few tokens."""

Reply = tuple[int, Mapping[str, str], bytes]
"""Status, headers, body."""


class ServerError(DraftgraphError):
    """A server cannot be reached, or does not answer as OpenAI's API does. status  of its answer; 0 without one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Address:
    """Where a server is: scheme, host, port, and the path before `/v1`."""

    scheme: str
    host: str
    port: int | None
    path: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL, with or without `/v1`. Raises OptionError."""
        wrong = OptionError(f"{brief(url)} is not the address of a server; write http://HOST:PORT or https://HOST/v1")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise wrong from None
        odd = (
            not url.isascii() or not url.isprintable() or " " in url or parts.query or parts.fragment or parts.username
        )
        if parts.scheme not in ("http", "https") or not parts.hostname or odd:
            raise wrong
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/").removesuffix("/v1"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{'' if self.port is None else f':{self.port}'}{self.path}"

    def connect(self, seconds: float) -> http.client.HTTPConnection:
        if self.scheme == "https":
            return http.client.HTTPSConnection(
                self.host, self.port, timeout=seconds, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(self.host, self.port, timeout=seconds)


class Client:
    """A server that may be asked from several threads at a time; each has a connection of its own.

    seconds  what one answer may take. stopped  set by whoever gives up: no further try begins.
    """

    def __init__(self, url: str, key: str | None, seconds: float) -> None:
        if key is not None and not (key.isascii() and key.isprintable() and key):
            raise OptionError("the API key has characters that no HTTP header can hold; write it as the server gave it")
        self.address, self._seconds = Address.of(url), seconds
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self.stopped = threading.Event()
        self._local = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._busy: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()

    def get(self, path: str) -> Any:
        return self._answer("GET", path, None)

    def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """The object that a POST of `body` to /v1`path` gives. Raises ServerError."""
        return self._answer("POST", path, json.dumps(body).encode())

    def close(self) -> None:
        """End every connection. Threads that wait for an answer get an error."""
        self.stopped.set()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    if connection.sock is not None:
                        connection.sock.shutdown(socket.SHUT_RDWR)  # closing alone wakes nobody
                if connection not in self._busy:  # else its thread closes it, which may be about to read from it
                    connection.close()
            self._open.clear()

    def _answer(self, method: str, path: str, body: bytes | None) -> Any:
        wait = FIRST_WAIT_SECONDS
        for turn in range(1, TRIES + 1):
            try:
                status, headers, content = self._once(method, f"{self.address.path}/v1{path}", body)
                failure = None if status == 200 else self._refusal(status, content)
                asked_wait = headers.get("retry-after", "")
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                failure, status, asked_wait = self._lost(error), 0, ""
            if failure is None:
                return self._read(content)
            if turn == TRIES or (status and status not in BUSY) or self.stopped.is_set():
                raise failure
            longer = min(float(asked_wait), LONGEST_WAIT_SECONDS) if asked_wait.isdecimal() else 0.0
            self.stopped.wait(max(wait, longer))
            wait = min(2.0 * wait, LONGEST_WAIT_SECONDS)
        raise AssertionError("every try returns or raises")

    def _once(self, method: str, path: str, body: bytes | None) -> Reply:
        with self._connection() as connection:
            connection.request(method, path, body, self._headers)
            self._refuse_ended()  # `close` may have come before there was a socket
            with connection.getresponse() as response:
                content = response.read(LARGEST_ANSWER + 1)
                if len(content) > LARGEST_ANSWER:
                    raise ServerError(f"{self.address} answers with more than {LARGEST_ANSWER} bytes", response.status)
                if response.will_close:
                    self._drop()
                return response.status, {name.lower(): value for name, value in response.getheaders()}, content

    @contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        """This thread's, which nobody else closes meanwhile."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self.address.connect(self._seconds)
        with self._lock:
            self._refuse_ended()
            self._open.add(connection)
            self._busy.add(connection)
        try:
            yield connection
        finally:
            with self._lock:
                self._busy.discard(connection)
                if self.stopped.is_set():
                    connection.close()

    def _refuse_ended(self) -> None:
        if self.stopped.is_set():
            raise ServerError("the audit was ended")

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None
            with self._lock:
                self._open.discard(connection)

    def _lost(self, error: Exception) -> ServerError:
        if isinstance(error, TimeoutError):
            return ServerError(
                f"{self.address} did not answer within {self._seconds:g} seconds, {TRIES} times; ask for fewer requests at "
                "a time (--concurrency), or write a longer --timeout"
            )
        return ServerError(
            f"no server answers at {self.address}: {first_line(error)}; start it, wait until it says that it is ready, and write "
            "the address that it says"
        )

    def _refusal(self, status: int, content: bytes) -> ServerError:
        return ServerError(f"{self.address} answers {status}: {_reason(content)}", status)

    def _read(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise ServerError(
                f"{self.address} does not answer with JSON but {brief(content[:80].decode('utf-8', 'replace'))}; is it an API?"
            ) from None


def _reason(content: bytes) -> str:
    """The message of an error, in whichever of the usual forms."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return brief(content[:160].decode("utf-8", "replace"))
    for path in (("error", "message"), ("message",), ("detail",), ("error",)):
        found: Any = told
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, str):
            return found[:400]
    return brief(told)
