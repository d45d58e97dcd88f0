"""draftgraph audit: options and exit codes, and our own server audited over real HTTP, honest and mistaken."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
import uvicorn
from typer.testing import CliRunner, Result

import draftgraph as dg
from draftgraph.cli import app
from draftgraph.cli.work import audit as work
from draftgraph.data import bundled_pair
from draftgraph.lab.remote import audit as remote
from draftgraph.lab.remote import client
from draftgraph.server.app import make_app
from draftgraph.server.log import Log
from draftgraph.server.program import listen
from draftgraph.server.service import Service
from draftgraph.server.settings import Settings
from draftgraph.verification.layer import LayerRule
from table_server import table_server

QUICK = ("--samples", "150", "--tokens", "2", "--greedy-tokens", "4", "--prompt", "one", "--seed", "1")
OURS = ("--prompt", "def add(a, b):\n    return", "--prompt", "import ", "--tokens", "2", "--greedy-tokens", "8")
SWITCH = ("--off", '{"budget": 0}', "--concurrency", "16")


class UnwarpedBonus(LayerRule):
    """The layer rule with a published mistake: the bonus token ignores the temperature."""

    name: ClassVar[str] = "unwarped_bonus"

    def outcome(self, tree: dg.TokenTree, p: torch.Tensor) -> dg.Outcome:
        honest = super().outcome(tree, p)
        return dg.Outcome(honest.stop, lambda row: honest.bonus(row) ** 2)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["audit", *words])


@pytest.fixture
def served() -> Iterator[dict[str, object]]:
    """Starts servers of ours in threads: `start(rule=...)` gives an address."""
    target, drafter = bundled_pair()
    running = []

    def start(**options: object) -> str:
        engine = dg.Engine.from_pretrained(
            target, draft_model=drafter, backend="torch", budget=8, num_speculative_tokens=4, **options
        )
        listening = listen("127.0.0.1", 0)
        service = Service(engine, Settings(model="bundled"), Log(False, io.StringIO()))
        server = uvicorn.Server(uvicorn.Config(make_app(service), log_config=None, access_log=False, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((server, thread, listening))
        ends = time.monotonic() + 300
        while not server.started:
            assert time.monotonic() < ends, "it did not start"
            time.sleep(0.02)
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    try:
        yield start
    finally:
        for server, thread, listening in running:
            server.should_exit = True
            thread.join(300)
            listening.close()


def test_our_own_server_holds_and_with_a_mistake_is_biased(served):
    honest = run(served(), *SWITCH, *OURS, "--samples", "100", "--json")
    assert honest.exit_code == 0, honest.output
    told = json.loads(honest.stdout)
    assert told["verdict"] == "holds"
    assert told["drafted"][0] > 200
    assert told["drafted"][1] == 0
    assert told["detectable_by_rank"] < 0.25
    assert told["greedy"]["partings"] == []
    mistaken = run(served(rule=UnwarpedBonus()), *SWITCH, *OURS, "--samples", "50")
    assert mistaken.exit_code == 1, mistaken.output
    assert "biased: answers" in mistaken.stdout


def test_exit_codes_say_what_was_found():
    with table_server() as (url, _):
        held = run(url, "--off", '{"plain": true}', *QUICK)
        assert held.exit_code == 0, held.output
        assert held.stderr.startswith("auditing http://127.0.0.1")
    with table_server(planted=0.5) as (url, behaviour):
        assert run(url, "--off", '{"plain": true}', *QUICK, "--endpoint", "chat").exit_code == 1
        assert "messages" in behaviour.asked[0]
    with table_server(drafts=False) as (url, _):
        untested = run(url, "--off", '{"plain": true}', *QUICK)
        assert (untested.exit_code, "untested: " in untested.stdout) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "a server is needed"),
        (("host:1",), "is not the address of a server"),
        (("http://127.0.0.1:9", "--off", "{"), "--off cannot read"),
        (("http://127.0.0.1:9", "--on", "[1]"), "--on takes an object"),
        (("http://127.0.0.1:9", "--body", '{"seed": 1}'), "--body cannot set seed"),
        (("http://127.0.0.1:9", "--endpoint", "chats"), "Did you mean 'chat'"),
        (("http://127.0.0.1:9", "--logprobs", "no"), "auto, never, tokens"),
        (("http://127.0.0.1:9", "--against-api-key", "a"), "--against"),
        (("http://127.0.0.1:9", "--alpha", "1"), "alpha=1.0 is not possible"),
        (("http://127.0.0.1:9", "--temperature", "inf"), "temperature=inf"),
        (("http://127.0.0.1:9", "--temperature", "0", "--greedy-tokens", "0"), "asks nothing"),
        (("http://127.0.0.1:9", "--prompt", ""), "an empty prompt"),
        (("http://127.0.0.1:9",), "no server answers at http://127.0.0.1:9"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, tuple) else "",
)
def test_what_is_not_possible_is_refused(words, message, monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.001)
    told = run(*words)
    assert (told.exit_code, told.stdout) == (2, ""), told.output
    assert message in told.stderr


def test_an_audit_goes_on_from_its_file(tmp_path):
    file = str(tmp_path / "answers")
    with table_server() as (url, behaviour):
        first = run(url, "--off", '{"plain": true}', *QUICK, "--keep", file, "--json")
        asked = len(behaviour.asked)
        again = run(url, "--off", '{"plain": true}', *QUICK, "--keep", file, "--json")
        assert len(behaviour.asked) - asked < asked - 100, "only forms and greedy texts are asked again"
        other = run(url, "--off", '{"plain": true}', *QUICK[:-1], "2", "--keep", file)
    assert first.stdout == again.stdout
    assert (other.exit_code, "holds the answers of another audit" in other.stderr) == (2, True)


def test_ctrl_c_reports_what_was_measured(monkeypatch):
    real = remote.gather

    def interrupted(plan, ask, concurrency, file, told, stop):
        def press(done: int, total: int) -> None:
            if done == 100:
                raise KeyboardInterrupt

        return real(plan, ask, concurrency, file, press, stop)

    monkeypatch.setattr(remote, "gather", interrupted)
    with table_server(planted=0.5) as (url, _):
        told = run(url, "--off", '{"plain": true}', *QUICK)
    assert told.exit_code == 130
    assert "interrupted after 100 of 300 answers" in told.stderr
    assert "biased: " in told.stdout


def test_a_self_check_without_a_server_tests_the_test(monkeypatch):
    monkeypatch.setattr(work, "MADE_UP", (1, 300, 1))
    monkeypatch.setattr(work, "SIZE", 0.25)
    told = run("--self-check", "--json")
    assert told.exit_code == 0, told.output
    checks = json.loads(told.stdout)
    assert [check["held"] for check in checks] == [True, True]
    assert all(check["found"] >= 7 for check in checks)


def test_a_self_check_with_a_server_plants_into_its_answers():
    with table_server() as (url, _):
        told = run(url, "--off", '{"plain": true}', *QUICK, "--self-check")
    assert told.exit_code == 0, told.output
    assert "planted mistakes of TV" in told.stdout
