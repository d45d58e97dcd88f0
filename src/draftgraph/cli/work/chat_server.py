"""A conversation with a model behind a server that speaks OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from types import TracebackType
from typing import Any

import httpx

from draftgraph.cli.work.chat import Messages, Told
from draftgraph.errors import DraftgraphError, OptionError, first_line

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 600.0
"""How long a server may say nothing: it may read a long prompt."""


class ServerSpeaker:
    """A server. url  its address, with or without /v1. asked  fields of every request."""

    def __init__(self, url: str, key: str | None, asked: Mapping[str, Any]) -> None:
        self.told = Told()
        base = url.rstrip("/").removesuffix("/v1")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        limits = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
        try:
            self._client = httpx.Client(base_url=f"{base}/v1", headers=headers, timeout=limits)
            self._asked = dict(asked) | {"model": self._model()}
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
            if isinstance(error, OptionError):
                raise
            raise OptionError(
                f"no server answers at {url}: {first_line(error)}; write --server http://HOST:PORT/v1"
            ) from None

    def __enter__(self) -> ServerSpeaker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def answer(self, messages: Messages) -> Generator[str, None, None]:
        self.told = Told()
        body = self._asked | {"messages": list(messages), "stream": True, "stream_options": {"include_usage": True}}
        try:
            with self._client.stream("POST", "/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise DraftgraphError(_reason(response))
                for line in response.iter_lines():
                    if line.startswith("data: {"):
                        yield self._piece(json.loads(line[len("data: ") :]))
        except httpx.HTTPError as error:
            raise DraftgraphError(f"the server does not answer any more: {first_line(error)}") from None

    def _piece(self, chunk: Any) -> str:
        if "error" in chunk:
            raise DraftgraphError(str(chunk["error"].get("message")))
        if chunk.get("usage"):
            self.told.tokens = chunk["usage"]["completion_tokens"]
            metrics = (chunk.get("metrics") or {}).get("speculative_decoding")
            self.told.per_round = metrics["mean_acceptance_length"] if metrics else None
        return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])

    def _model(self) -> str:
        """The first model that the server has."""
        try:
            response = self._client.get("/models")
            if response.status_code != 200:
                raise OptionError(_reason(response))
            return str(response.json()["data"][0]["id"])
        except BaseException:
            self._client.close()
            raise


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answers {response.status_code}"
