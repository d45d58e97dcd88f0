"""draftgraph generate --trace and draftgraph view: files, exit codes, output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from draftgraph import Engine
from draftgraph.cli import app
from draftgraph.errors import LogitsError, OptionError
from draftgraph.view import tracefile
from pairs import save_pair
from traces import random_trace

PROMPT = "def f(x):"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert len(result.stderr.splitlines()) == 1
    for word in ("error: ", *words):
        assert word in result.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    target, drafter = save_pair(tmp_path_factory.mktemp("pair"))
    return ["--model", str(target), "--draft-model", str(drafter), "--max-new-tokens", "12", "--seed", "1"]


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("trace") / "t.json"
    tracefile.save(random_trace(4, 6), file)
    return file


def test_generate_writes_what_view_draws(models, tmp_path):
    file = tmp_path / "t.json"
    shown = run("generate", PROMPT, *models, "--show", "--trace", str(file))
    assert shown.exit_code == 0, shown.output
    drawn = run("view", str(file))
    assert drawn.exit_code == 0, drawn.output
    assert drawn.stdout == shown.stdout


def test_the_trace_is_beside_whatever_else_is_printed(models, tmp_path):
    file = tmp_path / "t.json"
    found = json.loads(run("generate", PROMPT, *models, "--json", "--trace", str(file)).stdout)
    trace = tracefile.load(file)
    assert (trace.text, trace.token_ids, trace.seed) == (found["text"], found["token_ids"], found["seed"])
    assert trace.stats.to_dict() == found["stats"]
    assert trace.choice == found["choice"]


def test_one_round(traced):
    result = run("view", str(traced), "--round", "2")
    assert result.exit_code == 0
    assert "round 2  6 nodes" in result.stdout
    assert "round 1 " not in result.stdout
    assert "summary" not in result.stdout
    for number in ("0", "5"):
        refused(run("view", str(traced), "--round", number), 2, f"--round {number}", "from 1 to 4")


def test_a_page(traced, tmp_path):
    file = tmp_path / "t.html"
    result = run("view", str(traced), "--html", str(file), "--round", "3")
    assert result.exit_code == 0
    assert "4 rounds" in result.stdout
    assert '"start":3' in file.read_text(encoding="utf-8")


def test_traces_of_the_future_and_other_files_are_refused(tmp_path):
    file = tmp_path / "t.json"
    file.write_text(json.dumps(random_trace(1, 2).to_dict() | {"version": 2}))
    refused(run("view", str(file)), 2, str(file), "version 2", "update draftgraph")
    file.write_text("text")
    refused(run("view", str(file), "--html", str(tmp_path / "t.html")), 2, str(file), "--trace")
    refused(run("view", str(tmp_path / "absent")), 2, "cannot read")
    assert not (tmp_path / "t.html").exists()


def test_a_trace_without_rounds_has_no_round_to_draw(tmp_path):
    tracefile.save(random_trace(0, 0), tmp_path / "t.json")
    assert run("view", str(tmp_path / "t.json")).exit_code == 0
    refused(run("view", str(tmp_path / "t.json"), "--round", "1"), 2, "no rounds")


def test_places_that_cannot_be_written_are_refused_before_the_work(models, traced, tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "from_pretrained", None)  # not reached
    refused(run("generate", PROMPT, *models, "--trace", str(tmp_path / "absent" / "t.json")), 2, "cannot write")
    refused(run("view", str(traced), "--html", str(tmp_path)), 2, "cannot write")


def test_a_disk_that_fills_up_does_not_lose_the_text(models, tmp_path, monkeypatch):
    def full(trace: tracefile.Trace, file: Path) -> None:
        raise OptionError(f"cannot write {str(file)!r}: No space left on device; give another file")

    whole = run("generate", PROMPT, *models).stdout
    monkeypatch.setattr(tracefile, "save", full)
    result = run("generate", PROMPT, *models, "--trace", str(tmp_path / "t.json"))
    refused(result, 2, "No space left")
    assert result.stdout == whole


@pytest.mark.parametrize("failure", [LogitsError("row 3 has no mass"), KeyboardInterrupt()])
def test_what_an_error_left_is_traced(models, tmp_path, monkeypatch, failure):
    file = tmp_path / "t.json"
    stream = Engine.stream

    def breaking(self, prompt, params=None):
        events = stream(self, prompt, params)
        rest = events._events

        def some():
            yield next(rest)
            raise failure

        events._events = some()
        return events

    monkeypatch.setattr(Engine, "stream", breaking)
    result = run("generate", PROMPT, *models, "--trace", str(file))
    assert result.exit_code == (130 if isinstance(failure, KeyboardInterrupt) else 1)
    trace = tracefile.load(file)
    assert trace.finish_reason is None
    assert len(trace.rounds) == 1
    assert run("view", str(file)).stdout.count("round 1 ") == 1


def test_terminals_are_not_driven_by_tokens(tmp_path):
    trace = random_trace(6, 30)
    tracefile.save(replace(trace, words={token: f"\x1b[2J{token}" for token in trace.words}), tmp_path / "t.json")
    assert "\x1b" not in run("view", str(tmp_path / "t.json")).stdout


def test_every_node_of_a_round_tells_why(traced):
    shown = run("view", str(traced), "--round", "1", "--why")
    assert shown.exit_code == 0
    assert "what became of it, and why" in shown.output
    assert "the target gives it p = " in shown.output
    assert run("view", str(traced), "--why").exit_code == 2
