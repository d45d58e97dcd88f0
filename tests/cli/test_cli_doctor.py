"""draftgraph pair-check and doctor: what they print, what they refuse, and their exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from draftgraph.cli import app
from draftgraph.lab.doctor import diagnosis
from draftgraph.lab.doctor.checks import cores
from draftgraph.lab.predict import prediction
from models import byte_tokenizer, tiny_lm
from pairs import save_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[str]:
    return [str(folder) for folder in save_pair(tmp_path_factory.mktemp("pair"), noise=0.2)]


@pytest.fixture
def other(tmp_path) -> str:
    """A drafter with another vocabulary."""
    tiny_lm(vocab=512).save_pretrained(tmp_path / "other")
    byte_tokenizer(tuple(f"<{i}>" for i in range(256)), vocab=512).save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


@pytest.fixture(autouse=True)
def few(monkeypatch) -> None:
    """A handful of drafts, rounds and texts."""
    monkeypatch.setattr(prediction, "ROUNDS", 8)
    monkeypatch.setattr(prediction, "DEPTHS", (2, 4))
    monkeypatch.setattr(prediction, "SHAPES", ((2, 1),))
    monkeypatch.setattr(prediction, "BUDGETS", (4,))
    monkeypatch.setattr(diagnosis, "OWN_SAMPLES", 3)
    monkeypatch.setattr(diagnosis, "TOKENS", (16, 20))


@pytest.fixture
def room(monkeypatch) -> None:
    """The time limit always leaves room for a prediction."""
    monkeypatch.setattr(diagnosis, "PREDICTION_TOKENS", 0)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})


def test_a_pair_that_can_run(pair):
    run("pair-check", *pair)  # may convert the models, which is said
    result = run("pair-check", *pair)
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "the pair can run" in words
    assert "256 tokens have the same ids" in words
    assert "draftgraph doctor" in words
    assert result.stderr == ""


def test_a_pair_that_cannot_run_fails_with_every_rule_listed(pair, other):
    result = run("pair-check", pair[0], other, "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    found = json.loads(result.stdout)
    assert (found["target"], found["drafter"], found["ok"]) == (pair[0], other, False)
    assert {frozenset(check) for check in found["checks"]} == {frozenset({"of", "rule", "outcome", "found", "advice"})}
    assert [check["rule"] for check in found["checks"] if check["outcome"] == "fail"] == ["same tokens"]
    words = " ".join(run("pair-check", pair[0], other).stdout.split())
    assert re.search(r"the pair cannot run: 1 of \d+ rules failed. The target alone can run", words)
    assert "draftgraph doctor" in words


def test_missing_models_fail(tmp_path, pair):
    missing = run("pair-check", str(tmp_path / "nothing"), pair[1])
    assert (missing.exit_code, missing.stderr) == (1, "")
    assert "the pair cannot run" in " ".join(missing.stdout.split())
    failed = run("doctor", str(tmp_path / "nothing"), "--json")
    assert (failed.exit_code, json.loads(failed.stdout)["ok"]) == (1, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--dtype", "int4"], "one of float32"), (["--device", "toaster"], "not possible here"), (["--threads", "0"], "")],
)
def test_misuse(pair, arguments, words):
    result = run("pair-check", *pair, *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_threads_are_set(pair):
    before = torch.get_num_threads()
    try:
        result = run("pair-check", pair[0], "--threads", str(cores() + 1))
        assert (result.exit_code, torch.get_num_threads()) == (0, cores() + 1)
        assert f"write --threads {cores()}" in " ".join(result.stdout.split())
    finally:
        torch.set_num_threads(before)


def test_doctor_of_a_pair_predicts_and_measures(pair, room):
    result = run("doctor", *pair, "--limit", "1", "--prompt", "def f(x):", "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["ok"] is True
    assert [one["temperature"] for one in found["temperatures"]] == [0.0, 1.0]
    for one in found["temperatures"]:
        assert one["pays"] in ("yes", "mostly", "no")
        assert {"defaults", "lookup"} < {way["name"] for way in one["tried"]}
        assert one["chosen"]["name"] in {way["name"] for way in one["tried"]}
        assert any(way["predicted"] is not None for way in one["tried"])
        for way in (*one["tried"], one["chosen"]):
            assert way["speedup"]["turns"] >= 3
            assert way["speedup"]["low"] <= way["speedup"]["median"] <= way["speedup"]["high"]
            assert way["break_even"] == pytest.approx(way["tokens"] / way["speedup"]["median"])
        assert 0.0 <= one["overlap"] <= 1.0
    assert found["costs"]["target"]["repeats"]
    assert len(found["verdicts"]) == 2
    assert isinstance(found["busy"], bool)
    assert found["dtype"] == "float32"


def test_doctor_tells_a_person(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosis, "PREDICTION_TOKENS", 1e9)
    texts = tmp_path / "texts.txt"
    texts.write_text("one line of text\nand another one\n")
    result = run("doctor", *pair, "--limit", "1", "--text", str(texts), "--temperature", "0.7", "--top-k", "20")
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "does it pay at temperature 0:" in words
    assert "does it pay at temperature 0.7:" in words
    assert "chain 3" in words
    assert "break even" in words
    assert "longer --limit" in words


def test_doctor_of_a_target_measures_lookup(pair):
    result = run("doctor", pair[0], "--limit", "1", "--temperature", "0", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["drafter"] is None
    (one,) = found["temperatures"]
    assert [way["name"] for way in one["tried"]] == ["lookup"]
    assert (found["costs"], one["overlap"]) == (None, None)


def test_doctor_needs_prompts_that_can_be_read(tmp_path, pair):
    tiny_lm().save_pretrained(tmp_path / "bare")
    bare = run("doctor", str(tmp_path / "bare"), "--limit", "1")
    assert (bare.exit_code, "no tokenizer files" in bare.stderr) == (2, True)
    empty = run("doctor", *pair, "--limit", "1", "--prompt", "")
    assert (empty.exit_code, "a prompt is empty" in empty.stderr) == (2, True)
    tiny_lm(vocab=256, window=16).save_pretrained(tmp_path / "short")
    byte_tokenizer().save_pretrained(tmp_path / "short")
    short = run("doctor", str(tmp_path / "short"), "--limit", "1")
    assert (short.exit_code, "leaves no room" in short.stderr) == (2, True)
    missing = run("doctor", *pair, "--text", str(Path(tmp_path) / "none.txt"))
    assert (missing.exit_code, "cannot read prompts" in missing.stderr) == (2, True)
