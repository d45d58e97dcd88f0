"""draftgraph serve: what is refused before a model is loaded."""

from __future__ import annotations

import socket

import pytest
from typer.testing import CliRunner

from draftgraph.cli import app
from draftgraph.cli.work import serve


@pytest.fixture(autouse=True)
def no_models(monkeypatch):
    monkeypatch.setattr(serve, "load_engine", lambda *given, **options: pytest.fail("a model was loaded"))


def refused(*words: str, **environment: str) -> str:
    told = CliRunner(env=environment).invoke(app, ["serve", *words])
    assert (told.exit_code, told.stdout) == (2, ""), told.output
    return told.stderr


def test_a_port_that_is_taken_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot listen on 127.0.0.1 port" in refused("--port", str(taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--port", "70000"), "port=70000"),
        (("--host", "no such host"), "cannot listen on no such host"),
        (("--api-key", ""), "API key"),
        (("--chat-template", "nowhere.jinja"), "--chat-template cannot read 'nowhere.jinja'"),
        (("--request-timeout", "0"), "request_timeout"),
        (("--metrics-prefix", "a b"), "metrics_prefix"),
        (("--budget", "many"), "budget"),
        (("--drafter", "serach"), "Did you mean 'search'?"),
        (("--drafter", "lookup", "--table", "t"), "table='t' is for drafter='search'"),
        (("--table-shared",), "table_shared=True is for drafter='search'"),
        (("a", "--model", "b"), "given twice"),
        (("--draft-model", "b"), "target"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, tuple) else "",
)
def test_what_is_not_possible_is_refused(words, message):
    assert message in refused(*words)


def test_the_key_may_stand_in_the_environment():
    assert "API key" in refused(DRAFTGRAPH_API_KEY="ké")


def test_without_the_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "fastapi" else object())
    assert "serving needs fastapi; write pip install 'draftgraph[server]'" in refused()
