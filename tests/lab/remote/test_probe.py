"""What a server understands is found by asking it."""

from __future__ import annotations

import pytest

from draftgraph.lab.remote.client import Client, ServerError
from draftgraph.lab.remote.plan import Way
from draftgraph.lab.remote.probe import Dialect, find_dialect, states_raw
from table_server import table_server


def found(url: str, kind: str = "auto", listed: bool = True, way: Way | None = None) -> Dialect:
    client = Client(url, None, 10.0)
    try:
        return find_dialect(client, way or Way(url), kind, listed, "one", {})
    finally:
        client.close()


@pytest.mark.parametrize(
    ("behaviour", "dialect"),
    [
        ({"listed": 20}, Dialect("completions", "table", 20, True)),
        ({"listed": 5}, Dialect("completions", "table", 5, True)),
        ({"listed": 0}, Dialect("completions", "table", 0, True)),
        ({"kinds": ("chat",)}, Dialect("chat", "table", 5, True)),
        ({"refused": ("top_k",)}, Dialect("completions", "table", 5, False)),
        ({"refused": ("logprobs", "min_p")}, Dialect("completions", "table", 0, False)),
    ],
    ids=lambda case: str(case) if isinstance(case, dict) else "",
)
def test_the_most_telling_form_that_is_answered_is_taken(behaviour, dialect):
    with table_server(**behaviour) as (url, _):
        assert found(url) == dialect


def test_an_endpoint_that_is_not_there_is_asked_once():
    with table_server(kinds=("chat",)) as (url, behaviour):
        found(url)
        assert ["messages" in body for body in behaviour.asked] == [False, True, True, True]


def test_what_is_written_is_not_searched_for():
    with table_server() as (url, behaviour):
        assert found(url, "chat", listed=False, way=Way(url, "named")) == Dialect("chat", "named", 0, True)
        assert [body["model"] for body in behaviour.asked] == ["named"]
        assert "logprobs" not in behaviour.asked[0]


def test_a_server_that_understands_nothing_is_told_in_its_own_words():
    with (
        table_server(refused=("model",)) as (url, _),
        pytest.raises(ServerError, match="400: unknown or too large: model"),
    ):
        found(url)
    with table_server(kinds=()) as (url, _), pytest.raises(ServerError, match="there is nothing at chat/completions"):
        found(url)


def test_a_locked_door_is_not_tried_again():
    with table_server(faults=[(401, {}, b"{}")]) as (url, behaviour), pytest.raises(ServerError, match="401"):
        found(url)
    assert behaviour.asked == []


@pytest.mark.parametrize("raw", [True, False])
def test_two_temperatures_say_whether_probabilities_are_the_models_own(raw):
    with table_server(raw=raw) as (url, _):
        client = Client(url, None, 10.0)
        assert states_raw(client, Dialect("chat", "table", 5, True), "one", {}) is raw
        client.close()
