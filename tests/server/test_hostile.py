"""What clients do wrong or on purpose: each gets a defined answer, and the next request works."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from draftgraph.cli import app
from held import Hold, until
from served import Served, engine, served

PROMPT = "def add(a, b):\n    return"
LONG = {"prompt": PROMPT, "temperature": 1.0, "ignore_eos": True, "max_tokens": 900}
KEY = "a-key"
HOUR = 3600
"""Limits of a server whose time goes on when a test says so."""


@pytest.fixture(scope="module")
def server():
    with served("--api-key", KEY, "--max-requests", "128", "--max-body-mib", "1") as running:
        running.http.headers["Authorization"] = f"Bearer {KEY}"
        yield running


def works(server: Served) -> None:
    answer = server.http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 8, "temperature": 0})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"] == engine().generate(PROMPT, max_new_tokens=8).text


def metric(server: Served, name: str) -> int:
    lines = server.http.get("/metrics").text.splitlines()
    return int(float(next(line for line in lines if line.startswith(f"draftgraph:{name}")).split()[-1]))


def running(server: Served) -> int:
    """Requests that are there, be it that they wait."""
    return metric(server, "num_requests_running") + metric(server, "num_requests_waiting")


@pytest.fixture
def hold(server: Served) -> Iterator[Hold]:
    """Ends with the test, whatever comes of it."""
    yield server.hold
    server.hold.end()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 400), (b"null", 400), (b'"x"', 400), (b"\xff\xfe", 400), (b'{"prompt": "\xff"}', 400),
        (b'{"prompt": "a", "prompt": "b"}', 400), (b'{"prompt": "\\ud800"}', 400), (b'{"prompt": NaN}', 400),
        (b"[" * 100_000, 400),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400), (b'{"prompt": "' + b"x" * (2 << 20) + b'"}', 413),
        (b'{"prompt": "' + b"x " * 200_000 + b'"}', 400), (b'{"prompt": "a\\u0000b", "max_tokens": 1}', 200),
    ],
    ids=lambda case: repr(case)[:20],
)  # fmt: skip
def test_bodies_that_are_no_request_get_a_reason(server: Served, content, status):
    answer = server.http.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.json()["error"]["message"]
    works(server)


def test_a_body_without_a_stated_length_is_cut_off_too(server: Served):
    def pieces():
        for _ in range(64):
            yield b" " * (1 << 15)

    answer = server.http.post("/v1/completions", content=pieces(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    works(server)


def test_other_content_types_and_paths_and_methods_get_a_reason(server: Served):
    http = server.http
    assert http.post("/v1/completions", content=b'{"prompt": "a"}').status_code == 415
    assert http.post("/v1/completions", data={"prompt": "a"}).status_code == 415
    latin = http.post("/v1/completions", content=b"{}", headers={"Content-Type": "application/json; charset=latin-1"})
    assert latin.status_code == 415
    assert "send JSON in UTF-8" in latin.json()["error"]["message"]
    stated = {"Content-Type": 'application/json; Charset="UTF-8"'}
    asked = b'{"model": "bundled", "prompt": "a", "max_tokens": 1}'
    assert http.post("/v1/completions", content=asked, headers=stated).status_code != 415
    assert http.get("/v1/completions").status_code == 405
    assert http.post("/v1/embeddings", json={}).status_code == 404
    for path in ("/v1/../etc/passwd", "/v1/models/..%2f..", "/%00"):
        assert http.get(path).status_code == 404
    works(server)


FIELDS = st.sampled_from([
    "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "logit_bias", "stop_token_ids",
    "min_tokens", "stream_options", "echo", "budget", "draftgraph", "prediction", "response_format", "presence_penalty", "model",
    "logprobs", "zzz",
])  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(FIELDS, VALUES, max_size=4))
@settings(max_examples=40)
def test_any_json_is_answered_or_refused_and_never_fails_inside(server: Served, fields):
    body = {"prompt": PROMPT, "max_tokens": 2} | fields
    answer = server.http.post("/v1/completions", json=body)
    assert answer.status_code in (200, 400, 404), (body, answer.text)


@given(st.binary(max_size=40))
@settings(max_examples=30)
def test_any_bytes_are_refused(server: Served, content):
    answer = server.http.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_rubbish_instead_of_http_ends_that_connection_alone(server: Served):
    address = (server.http.base_url.host, server.http.base_url.port)
    for rubbish in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ):
        with socket.create_connection(address, timeout=300) as plain:
            plain.sendall(rubbish)
            assert plain.recv(100).startswith((b"HTTP/1.1 400", b""))
    works(server)


def test_only_who_has_the_key_comes_in(server: Served):
    with httpx.Client(base_url=server.url, trust_env=False) as stranger:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Basic x"}):
            answer = stranger.post("/v1/completions", json={"prompt": "a"}, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        for path, status in (("/v1/models", 401), ("/tokenize", 401), ("/health", 200), ("/metrics", 200)):
            assert stranger.get(path).status_code == status
    works(server)


def test_a_chat_without_a_template_says_what_to_write(server: Served):
    answer = server.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_chat_template")
    assert all(word in answer.json()["error"]["message"] for word in ("/v1/completions", "--chat-template"))


def test_the_chat_command_is_told_that_its_key_is_wrong(server: Served):
    told = CliRunner().invoke(app, ["chat", "--server", server.url, "--api-key", "wrong"], input="hello\n")
    assert told.exit_code == 2
    assert "API key" in told.stderr
    told = CliRunner().invoke(app, ["chat", "--server", server.url, "--api-key", KEY], input="hello\n")
    assert told.exit_code == 0
    assert "no chat template" in told.stderr


def test_a_client_that_goes_away_frees_its_place_at_once(server: Served, hold: Hold):
    before, mark = metric(server, "generation_tokens_total"), server.mark()
    hold.after(2)
    with server.http.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as answer:
        next(answer.iter_lines())
    until(lambda: server.ended("/v1/completions", mark))
    hold.end()
    until(lambda: running(server) == 0)
    hold.after(2)
    mark = server.mark()
    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/v1/completions", json=LONG, timeout=httpx.Timeout(60, read=0.3))
    until(lambda: server.ended("/v1/completions", mark))
    hold.end()
    until(lambda: running(server) == 0)
    assert metric(server, "generation_tokens_total") - before < 100
    works(server)


def test_a_hundred_cancels_at_once_leave_nothing_behind(server: Served):
    gate = threading.Barrier(100)

    def ask(number: int) -> None:
        with httpx.Client(base_url=server.url, headers=server.http.headers, trust_env=False, timeout=60) as client:
            body = LONG | {"stream": number % 2 == 0, "seed": number}
            request = client.build_request("POST", "/v1/completions", json=body)
            gate.wait(300)
            try:
                with client.stream(
                    request.method, request.url, content=request.content, headers=request.headers, timeout=1
                ):
                    pass
            except httpx.TimeoutException:
                pass

    with ThreadPoolExecutor(100) as threads:
        list(threads.map(ask, range(100)))
    until(lambda: running(server) == 0)
    works(server)


def test_a_slow_reader_keeps_nobody_waiting(server: Served):
    with server.http.stream("POST", "/v1/completions", json=LONG | {"stream": True, "n": 2, "max_tokens": 200}) as slow:
        lines = slow.iter_lines()
        next(lines)
        works(server)
        assert list(lines)[-2] == "data: [DONE]"
    until(lambda: running(server) == 0)


def test_the_log_has_a_line_of_json_per_request_and_no_prompt(server: Served):
    secret = "def secret_name(x):"
    server.http.post("/v1/completions", json={"prompt": secret, "max_tokens": 4})
    server.http.post("/v1/completions", json={"prompt": secret, "max_tokens": 4, "temperature": "secret_name"})
    until(lambda: len(server.log) > 1 and '"status": 400' in server.log[-1])
    told = [json.loads(line) for line in server.log if line.startswith("{")]
    assert {"time", "level", "event", "id", "method", "path", "status", "seconds"} <= told[-1].keys()
    assert (told[-2]["completion_tokens"], told[-2]["finish_reasons"]) == (4, ["length"])
    assert not any("secret_name" in line for line in server.log)
    assert not any('"failure"' in line for line in server.log), "nothing has failed inside, in this whole module"


def test_sigterm_lets_what_runs_finish_and_sends_the_others_away():
    with served("--drain-timeout", "120") as server, ThreadPoolExecutor(4) as threads:
        server.hold.after(1)
        body = {"prompt": PROMPT, "temperature": 0, "ignore_eos": True, "max_tokens": 150, "stream": True}
        asked = [threads.submit(server.http.post, "/v1/completions", json=body) for _ in range(3)]
        until(lambda: running(server) == 3)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.http.get("/health").status_code == 503)
        late = server.http.post("/v1/completions", json={"prompt": PROMPT})
        assert (late.status_code, late.json()["error"]["code"], late.headers["Retry-After"]) == (503, "draining", "1")
        server.hold.end()
        own = engine().generate(PROMPT, max_new_tokens=150, ignore_eos=True).text
        for answer in asked:
            lines = [line for line in answer.result().text.split("\n\n") if line]
            assert lines[-1] == "data: [DONE]"
            texts = [json.loads(line[6:])["choices"][0]["text"] for line in lines[:-1]]
            assert "".join(texts) == own
        assert server.process.wait(300) == 0


def test_limits_on_requests_and_on_time_are_errors_that_say_so():
    limits = ("--max-requests", "1", "--request-timeout", str(2 * HOUR), "--drain-timeout", str(HOUR))
    with served(*limits) as server, ThreadPoolExecutor(2) as threads:
        works(server)
        body = LONG | {"n": 8}
        server.hold.after(2)
        first = threads.submit(server.http.post, "/v1/completions", json=body)
        until(lambda: running(server) > 0)
        full = server.http.post("/v1/completions", json={"prompt": PROMPT})
        assert (full.status_code, full.json()["error"]["code"], full.headers["Retry-After"]) == (429, "queue_full", "1")
        server.hold.skip(2 * HOUR)
        assert (first.result().status_code, first.result().json()["error"]["code"]) == (504, "timeout")
        server.hold.after(4)
        with server.http.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)  # now an error is no status any more
            server.hold.skip(2 * HOUR)
            streamed = [line for line in lines if line]
        assert json.loads(streamed[-2].removeprefix("data: "))["error"]["code"] == "timeout"
        assert streamed[-1] == "data: [DONE]"
        errors = [line for line in server.http.get("/metrics").text.splitlines() if "request_error_total{" in line]
        assert any('status="504"' in line and line.endswith(" 2.0") for line in errors), "of a stream as well"
        server.hold.end()
        until(lambda: running(server) == 0)
        works(server)
        server.hold.after(1)
        last = threads.submit(server.http.post, "/v1/completions", json=body)
        until(lambda: running(server) > 0)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.http.get("/health").status_code == 503)
        server.hold.skip(HOUR)
        assert last.result().json()["error"]["code"] == "draining"
        server.hold.end()
        assert server.process.wait(300) == 0
