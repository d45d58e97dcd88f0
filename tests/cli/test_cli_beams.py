"""draftgraph beams: several texts with their scores, or one JSON object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from draftgraph.cli import app
from pairs import save_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    target, drafter = save_pair(tmp_path_factory.mktemp("pair"))
    return ["--model", str(target), "--draft-model", str(drafter), "--backend", "torch"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["beams", "ab", "--max-new-tokens", "6", "--seed", "1", *arguments])


@pytest.mark.parametrize("search", [[], ["--search"]], ids=["sample", "search"])
def test_json_has_every_beam_the_best_first(pair: list[str], search: list[str]) -> None:
    result = run(*pair, *search, "--beams", "3", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    scores = [beam["score"] for beam in told["beams"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert (told["text"], told["score"]) == (told["beams"][0]["text"], scores[0])
    assert told["stats"]["num_layers"] == 6
    assert told["stats"]["num_target_calls"] < 6


def test_beams_are_printed_with_their_scores(pair: list[str]) -> None:
    result = run(*pair, "--num-return-sequences", "2", "--width", "mean")
    assert result.exit_code == 0, result.output
    assert "[1] -" in result.stdout
    assert "[2] -" in result.stdout
    assert "[3]" not in result.stdout
    assert "6 layers of 4 beams" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--temperature", "0"], "write --search"),
        (["--search", "--top-k", "3"], "--top-k is for sampling"),
        (["--search", "--width", "mean"], "--width is for sampling"),
        (["--early-stopping", "soon"], "early_stopping='soon'"),
        (["--beams", "0"], "num_beams=0"),
        (["--num-return-sequences", "9"], "num_return_sequences=9"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_is_not_possible_is_told_before_anything_is_loaded(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    result = run("--model", str(tmp_path / "missing"), *arguments)
    assert result.exit_code == 2
    assert says in result.output
