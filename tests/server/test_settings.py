"""What an operator decides, and the gate that enforces it."""

from __future__ import annotations

import asyncio

import pytest

from draftgraph.errors import OptionError
from draftgraph.server.door import _is_local
from draftgraph.server.errors import ApiError
from draftgraph.server.gate import Gate
from draftgraph.server.settings import Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": ""}, {"api_key": ""}, {"api_key": " k"}, {"api_key": "é"}, {"port": -1}, {"port": 70000}, {"max_requests": 0},
        {"max_body_bytes": 0}, {"request_timeout": 0}, {"drain_timeout": -1}, {"metrics_prefix": ""}, {"metrics_prefix": "a:b"},
        {"metrics_prefix": "1a"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_possible_is_refused(wrong):
    with pytest.raises(OptionError):
        Settings(**({"model": "m"} | wrong))


def test_loopback_is_known():
    assert [Settings("m", host=host).is_loopback for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("localhost:80", True), ("127.0.0.1:8000", True), ("[::1]:8000", True), ("10.0.0.3:1", True),
        ("", True), ("evil.com", False), ("evil.com:8000", False), ("localhost.evil.com", False), ("127.0.0.1.evil.com", False),
    ],
)  # fmt: skip
def test_a_host_header_that_another_name_could_be_made_to_point_at_is_known(host, local):
    assert _is_local(host) is local


def test_the_gate_counts_refuses_and_drains():
    async def run():
        gate, failed = Gate(2, 0.01), []
        gate.enter("a", failed.append)
        gate.enter("b", failed.append)
        with pytest.raises(ApiError) as full:
            gate.enter("c", failed.append)
        gate.leave("a")
        gate.leave("a")
        assert len(gate) == 1
        gate.drain()
        with pytest.raises(ApiError) as draining:
            gate.enter("d", failed.append)
        await asyncio.sleep(0.05)
        return full.value.status, draining.value.status, [error.code for error in failed]

    assert asyncio.run(run()) == (429, 503, ["draining"])
