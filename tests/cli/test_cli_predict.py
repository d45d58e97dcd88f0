"""draftgraph predict: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from draftgraph.cli import app
from draftgraph.lab.predict import prediction
from pairs import save_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[str]:
    return [str(folder) for folder in save_pair(tmp_path_factory.mktemp("pair"), noise=0.2)]


@pytest.fixture(autouse=True)
def few(monkeypatch) -> None:
    """A handful of drafts and rounds."""
    monkeypatch.setattr(prediction, "ROUNDS", 8)
    monkeypatch.setattr(prediction, "DEPTHS", (2, 4))
    monkeypatch.setattr(prediction, "SHAPES", ((2, 1),))
    monkeypatch.setattr(prediction, "BUDGETS", (4,))


@pytest.fixture
def texts(tmp_path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"def function_{i}(x): return x + {i} * {i * 7} - len(str({i}))" for i in range(5)))
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["predict", *arguments])


def test_natural_texts_are_predicted_from_and_called_an_approximation(pair, texts):
    result = run(*pair, "--text", str(texts), "--no-speed")
    assert result.exit_code == 0, result.output
    assert "natural" in result.stdout
    assert "approximation" in " ".join(result.stdout.split())
    assert "chain 4" in result.stdout


def test_json_holds_everything_and_measuring_adds_the_engine(pair, texts, tmp_path):
    picture = tmp_path / "prediction.png"
    result = run(
        *pair, "--text", str(texts), "--own", "3", "--new-tokens", "24", "--measure", "--json", "--plot", str(picture)
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert (found["source"], found["temperature"]) == ("own", 1.0)
    assert {row["rule"] for row in found["rows"]} == {"block", "token", "agree", "walk", "recursive", "layer"}
    for row in found["rows"]:
        assert row["tokens"]["texts"] >= 1
        assert row["measured"]["value"] >= 1.0
        assert row["pace"]["speedup"] > 0
    assert found["costs"]["target"]["repeats"]
    assert picture.stat().st_size > 0


def test_greedy_prediction_walks(pair, texts):
    result = run(*pair, "--text", str(texts), "--temperature", "0", "--json")
    assert result.exit_code == 0, result.output
    assert {row["rule"] for row in json.loads(result.stdout)["rows"]} == {"walk", "layer"}


@pytest.mark.parametrize(
    ("content", "words"), [("", "is empty"), ("too short", "no text is long enough"), (None, "cannot read prompts")]
)
def test_texts_that_cannot_be_used(pair, tmp_path, content, words):
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_text(content)
    result = run(*pair, "--text", str(path), "--no-speed")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert words in result.stderr


def test_pairs_that_cannot_run(pair, tmp_path):
    missing = run(pair[0], str(tmp_path / "nothing"))
    assert (missing.exit_code, len(missing.stderr.splitlines())) == (1, 1)
    no_start = run(*pair, "--no-speed")
    assert no_start.exit_code == 2
    assert "--text FILE" in no_start.stderr


def test_a_picture_needs_matplotlib_and_a_place(pair, texts, tmp_path, monkeypatch):
    nowhere = run(*pair, "--text", str(texts), "--no-speed", "--plot", str(tmp_path / "no" / "folder.png"))
    assert (nowhere.exit_code, "cannot draw" in nowhere.stderr) == (2, True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    without = run(*pair, "--text", str(texts), "--plot", str(tmp_path / "a.png"))
    assert (without.exit_code, "pip install matplotlib" in without.stderr) == (2, True)
