"""A server that speaks OpenAI's API over a table of laws, honest or mistaken, polite or not; in a thread of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

WORDS = [f" w{i}" for i in range(10)]


@dataclass
class Behaviour:
    """How it answers.

    kinds     endpoints that there are. listed  alternatives at most; more are refused, and 0 states nothing at all.
    raw       whether stated probabilities are those before temperature.
    planted   a draft's tokens come from another law, at this total variation from the model's.
    switch    the field that ends drafts.
    counts    whether it says how many tokens it drafted. drafts  whether it drafts at all.
    model     number of the table. refused  fields that it does not know. faults  (status, headers, body) that come first.
    """

    kinds: tuple[str, ...] = ("completions", "chat")
    listed: int = 5
    raw: bool = True
    planted: float = 0.0
    switch: str | None = "plain"
    counts: bool = True
    drafts: bool = True
    model: int = 0
    refused: tuple[str, ...] = ()
    faults: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def table_server(**options: Any) -> Iterator[tuple[str, Behaviour]]:
    """Its address, and how it behaves, which may be changed while it runs."""
    behaviour = Behaviour(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        timeout = 120

        def log_message(self, *given: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._say(200, {}, json.dumps({"data": [{"id": "table"}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            behaviour.keys.append(self.headers.get("Authorization"))
            if behaviour.faults:
                self._say(*behaviour.faults.pop(0))
                return
            behaviour.asked.append(body)
            status, told = answer(behaviour, self.path.removeprefix("/v1/"), body)
            self._say(status, {}, json.dumps(told).encode())

        def _say(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # with 5, connections of many threads would be repeated after a second

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", behaviour
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


def answer(behaviour: Behaviour, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    kind = {"completions": "completions", "chat/completions": "chat"}.get(path)
    if kind not in behaviour.kinds:
        return 404, {"error": {"message": f"there is nothing at {path}"}}
    listed = body.get("top_logprobs" if kind == "chat" else "logprobs") or 0
    wrong = [name for name in behaviour.refused if name in body]
    if wrong or listed > behaviour.listed > 0:
        return 400, {"error": {"message": f"unknown or too large: {', '.join(wrong) or 'logprobs'}"}}
    prompt = body["prompt"] if kind == "completions" else body["messages"][0]["content"]
    drafts = behaviour.drafts and behaviour.switch not in body
    steps = sampled(behaviour, prompt, body, behaviour.planted if drafts else 0.0)
    texts = "".join(WORDS[token] for token, _ in steps)
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
    choice |= {"text": texts} if kind == "completions" else {"message": {"role": "assistant", "content": texts}}
    if listed and behaviour.listed:
        choice["logprobs"] = stated(kind, steps, listed)
    told: dict[str, Any] = {"choices": [choice]}
    if behaviour.counts:
        told["metrics"] = {"speculative_decoding": {"num_draft_tokens": 3 if drafts else 0}}
    return 200, told


def sampled(behaviour: Behaviour, prompt: str, body: dict[str, Any], planted: float) -> list[tuple[int, np.ndarray]]:
    """Tokens with the log-probabilities that are stated for them, f64[words]."""
    temperature = body.get("temperature", 1.0)
    rng, steps, before = np.random.default_rng(body.get("seed", 0)), [], 0
    for _ in range(body["max_tokens"]):
        seed = [behaviour.model, before, *prompt.encode()]
        logits = np.random.default_rng(seed).normal(0, 1.5, len(WORDS))
        law = soft(logits / temperature) if temperature else np.eye(len(WORDS))[logits.argmax()]
        token = int(rng.choice(len(WORDS), p=moved(law, planted if temperature else 0.0)))
        shown = soft(logits) if behaviour.raw or not temperature else law
        steps.append((token, np.log(shown)))
        before = token + 1
    return steps


def soft(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def moved(law: np.ndarray, size: float) -> np.ndarray:
    """Mass `size` goes from the likeliest token to the others, as far as it has so much."""
    best = int(law.argmax())
    size = min(size, law[best])
    others = law.copy()
    others[best] = 0.0
    return (
        law
        + size * (others / others.sum() if others.sum() else 0.0)
        - size * np.eye(len(law))[best] * bool(others.sum())
    )


def stated(kind: str, steps: Sequence[tuple[int, np.ndarray]], listed: int) -> dict[str, Any]:
    tops = [{WORDS[i]: float(logs[i]) for i in np.argsort(-logs)[:listed]} for _, logs in steps]
    own = [float(logs[token]) for token, logs in steps]
    names = [WORDS[token] for token, _ in steps]
    if kind == "completions":
        lists = [top | {name: logprob} for top, name, logprob in zip(tops, names, own, strict=True)]
        return {"tokens": names, "token_logprobs": own, "top_logprobs": lists}
    return {
        "content": [
            {"token": name, "logprob": logprob, "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
            for name, logprob, top in zip(names, own, tops, strict=True)
        ]
    }
