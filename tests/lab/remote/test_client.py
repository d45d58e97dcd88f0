"""One server by HTTP: addresses, busy servers, and everything that is no answer."""

from __future__ import annotations

import http.client
import socket
import threading

import pytest

from draftgraph.errors import OptionError
from draftgraph.lab.remote import client as module
from draftgraph.lab.remote.client import Address, Client, ServerError
from table_server import table_server

BODY = {"prompt": "one", "max_tokens": 1}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("https://host/models/v1", "https://host/models"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_an_address_is_read_with_and_without_v1(url, read):
    assert str(Address.of(url)) == read


@pytest.mark.parametrize(
    "url",
    ["", "host", "ftp://host", "http://", "http://a b", "http://h:99999", "http://h/?q=1", "http://u@h", "http://ü"],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(OptionError, match="is not the address of a server"):
        Address.of(url)


@pytest.mark.parametrize("key", ["", "a\nb", "ü"])
def test_a_key_that_no_header_holds_is_refused(key):
    with pytest.raises(OptionError, match="API key"):
        Client("http://h", key, 1.0)


def test_a_busy_server_is_asked_again_and_retry_after_is_honoured(monkeypatch):
    waits = []
    busy = [
        (429, {"Retry-After": "7"}, b"{}"),
        (503, {"Retry-After": "999"}, b"{}"),
        (500, {"Retry-After": "soon"}, b""),
    ]
    with table_server(faults=busy) as (url, _):
        client = Client(url, None, 60.0)
        monkeypatch.setattr(client.stopped, "wait", lambda seconds: waits.append(seconds))
        assert client.ask("/completions", BODY)["choices"]
        client.close()
    assert waits == [7.0, module.LONGEST_WAIT_SECONDS, 0.04]


def test_a_server_that_stays_busy_is_given_up():
    with table_server(faults=[(503, {}, b'{"detail": "full"}')] * 99) as (url, behaviour):
        client = Client(url, None, 60.0)
        with pytest.raises(ServerError, match="answers 503: full"):
            client.ask("/completions", BODY)
        client.close()
        assert len(behaviour.faults) == 99 - module.TRIES


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ((400, {}, b'{"error": {"message": "no such field"}}'), "answers 400: no such field"),
        ((401, {}, b'{"message": "who?"}'), "answers 401: who?"),
        ((301, {"Location": "http://elsewhere"}, b""), "answers 301"),
        ((200, {}, b"<html>"), "not answer with JSON but '<html>'"),
        ((200, {}, b"[" * 100_000), "not answer with JSON"),
        ((404, {}, b"\xff\xfe"), "answers 404"),
        ((422, {}, b'{"detail": [1]}'), "answers 422"),
    ],
)
def test_what_is_no_answer_is_told_at_once(fault, message):
    with table_server(faults=[fault]) as (url, behaviour):
        client = Client(url, None, 60.0)
        with pytest.raises(ServerError, match=message):
            client.ask("/completions", BODY)
        assert not behaviour.asked
        assert client.ask("/completions", BODY)["choices"], "the connection goes on"
        client.close()


def test_an_answer_that_has_no_end_is_cut(monkeypatch):
    monkeypatch.setattr(module, "LARGEST_ANSWER", 100)
    with table_server(faults=[(200, {}, b"x" * 101)]) as (url, _):
        client = Client(url, None, 60.0)
        with pytest.raises(ServerError, match="more than 100 bytes"):
            client.ask("/completions", BODY)
        client.close()


def test_nobody_at_home_is_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # it is held, so that nobody else listens there meanwhile
        client = Client(f"http://127.0.0.1:{port}", None, 60.0)
        with pytest.raises(ServerError, match=f"no server answers at http://127.0.0.1:{port}.*; start it"):
            client.ask("/completions", BODY)


def test_a_silent_server_has_so_many_seconds_and_closing_ends_the_wait():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = Client(url, None, 0.1)
        with pytest.raises(ServerError, match=r"did not answer within 0.1 seconds.*--timeout"):
            client.ask("/completions", BODY)
        silent.settimeout(60)
        for _ in range(module.TRIES):
            silent.accept()[0].close()
        slow, errors = Client(url, None, 100.0), []
        thread = threading.Thread(target=lambda: errors.append(_error(slow)), daemon=True)
        thread.start()
        with silent.accept()[0] as asking:
            assert asking.recv(1)  # it has asked, and waits
            slow.close()
            thread.join(60)
        assert isinstance(errors[0], ServerError)


@pytest.mark.parametrize("moment", ["connect", "getresponse"])
def test_closing_ends_a_request_that_is_just_being_made(moment, monkeypatch):
    class Closing(http.client.HTTPConnection):
        def connect(self):
            if moment == "connect":
                client.close()
            super().connect()

        def getresponse(self):
            if moment == "getresponse":
                client.close()
            return super().getresponse()

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        port = silent.getsockname()[1]
        monkeypatch.setattr(Address, "connect", lambda self, seconds: Closing("127.0.0.1", port, timeout=seconds))
        client = Client(f"http://127.0.0.1:{port}", None, 5.0)
        with pytest.raises(ServerError, match="was ended" if moment == "connect" else "no server answers"):
            client.ask("/completions", BODY)


def _error(client: Client) -> BaseException | None:
    try:
        client.ask("/completions", BODY)
    except ServerError as error:
        return error
    return None
