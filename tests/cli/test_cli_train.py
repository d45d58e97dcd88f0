"""draftgraph train: a drafter from answers, that the engine takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

import draftgraph as dg
from draftgraph.cli import app
from draftgraph.lab.train import worth
from draftgraph.lab.train.features.answers import Answer, write_answers
from draftgraph.lab.train.features.generate import answer_all
from models import tiny_lm


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture(autouse=True)
def short_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worth, "SECONDS", 0.0)
    monkeypatch.setattr(worth, "TURNS", 2)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    tiny_lm(layers=3).save_pretrained(folder)
    return folder


def test_a_drafter_comes_out_that_the_engine_takes(target: Path, tmp_path: Path) -> None:
    answers, out = tmp_path / "answers.jsonl.gz", tmp_path / "drafter"
    asked = [([i % 60, 3], (0.0, 1.0)[i % 2]) for i in range(60)]
    write_answers(answers, answer_all(tiny_lm(layers=3), asked, 16, [], captured=False))
    result = run(target, "--out", out, "--answers", answers, "--head", 40, "--rows", 128, "--epochs", 1, "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    assert card["answer_tokens"]["train"] > 300
    assert card["held_out"]["greedy"]["by_position"]
    assert card["machine"]["threads"]
    assert card["seconds"]["training"] > 0
    assert [each["temperature"] for each in card["verdicts"]] == [0.0, 1.0]
    assert {name for each in card["verdicts"] for name in each["ways"]} == {"trained", "lookup", "both"}
    assert json.loads((out / "card.json").read_text())["verdicts"] == card["verdicts"]
    model = AutoModelForCausalLM.from_pretrained(target)
    drafted = dg.Engine.from_pretrained(model, draft_model=out, budget=4).generate([5, 6], max_new_tokens=12)
    plain = dg.Engine.from_pretrained(model, budget=0).generate([5, 6], max_new_tokens=12)
    assert drafted.token_ids == plain.token_ids
    assert drafted.stats.num_drafter_evaluations > 0
    again = run(target, "--out", out, "--answers", answers, "--head", 40, "--rows", 128, "--epochs", 1)
    assert again.exit_code == 0, again.output
    assert "held out, greedy: accepted at position 1, 2, …" in again.stdout
    assert "at temperature 0: trained " in again.stdout
    other = run(target, "--out", out, "--answers", answers, "--head", 30)
    assert "was begun with other settings" in other.output


def test_nothing_to_learn_from_is_refused(target: Path, tmp_path: Path) -> None:
    missing = run(tmp_path / "absent", "--out", tmp_path / "drafter")
    assert (missing.exit_code, "there is no such folder here" in missing.output) == (1, True)
    for option in (("--weights", "int8"), ("--backend", "openvino")):
        refused = run(target, "--out", tmp_path / "drafter", *option)
        assert (refused.exit_code, f"{' '.join(option)} is not possible here" in refused.output) == (2, True)
    result = run(target, "--out", tmp_path / "drafter")
    assert "nothing to learn from; give prompts with --prompts, or answers with --answers" in result.output
    (tmp_path / "p.txt").write_text("hello\n")
    result = run(target, "--out", tmp_path / "drafter", "--prompts", tmp_path / "p.txt")
    assert "has no tokenizer, which prompts need" in result.output


def test_a_network_that_is_not_known_is_refused(target: Path, tmp_path: Path) -> None:
    result = run(target, "--out", tmp_path / "drafter", "--network", "medusa")
    assert (
        result.exit_code,
        "--network 'medusa' is not possible; write one of own, eagle3, eagle" in result.output,
    ) == (2, True)


@pytest.mark.parametrize(
    ("family", "cause"),
    [
        ("gpt2", "model_type='gpt2' does not turn whole queries by their position alone"),
        ("falcon", "reads 64 numbers of keys:1, values:1 per token, and this target gives 16"),
    ],
)
def test_a_target_without_a_place_for_the_network_is_refused_before_anything_is_decoded(
    family: str, cause: str, tmp_path: Path
) -> None:
    tiny_lm(family).save_pretrained(tmp_path / "target")
    answers = tmp_path / "a.jsonl.gz"
    write_answers(answers, [Answer(np.array([1, 2, 3, 4], dtype=np.int32), 1, 0.0)])
    result = run(tmp_path / "target", "--out", tmp_path / "drafter", "--answers", answers, "--network", "glide")
    assert result.exit_code == 1
    assert cause in " ".join(result.output.split())
    assert not list(tmp_path.glob(".drafter*"))
