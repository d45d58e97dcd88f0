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
from draftgraph.lab.train.features.answers import Answer, read_answers, write_answers
from draftgraph.lab.train.features.generate import answer_all
from models import byte_tokenizer, tiny_lm


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
    assert result.exit_code == 2
    assert "neither a chat template nor a token that texts begin with" in " ".join(result.output.split())
    (tmp_path / "p.txt").write_text("hello\n")
    result = run(target, "--out", tmp_path / "drafter", "--prompts", tmp_path / "p.txt")
    assert "has no tokenizer, which prompts need" in result.output


def test_what_cannot_be_read_or_written_is_refused_before_a_folder_is_begun(target: Path, tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(target)
    (tmp_path / "file").touch()
    for out, option, cause in (
        ("file", "--own-prompts=2", "is a file, and a drafter is a folder"),
        ("drafter", f"--answers={tmp_path / 'absent.gz'}", "holds no answers"),
        ("drafter", f"--prompts={tmp_path / 'absent.txt'}", "absent.txt"),
    ):
        result = run(target, "--out", tmp_path / out, option)
        assert (result.exit_code > 0, cause in " ".join(result.output.split())) == (True, True), result.output
    assert not list(tmp_path.glob(".*-training"))


def test_a_target_writes_its_own_prompts_and_its_drafter_goes_on_learning(tmp_path: Path) -> None:
    model = tiny_lm(layers=3, logit_gain=1.5)
    model.config.bos_token_id = model.generation_config.bos_token_id = 5
    target, first, second = tmp_path / "target", tmp_path / "first", tmp_path / "second"
    model.save_pretrained(target)
    said = ("--tokens", 500, "--max-new-tokens", 10, "--batch", 8, "--head", 40, "--rows", 128, "--epochs", 1)
    result = run(target, "--out", first, "--own-prompts", 40, *said)
    assert result.exit_code == 0, result.output
    assert "prompts: the target has written 40 of 40" in result.output
    answers = sorted((tmp_path / ".first-training" / "answers").iterdir())
    prompts = {tuple(answer.ids[: answer.prompt].tolist()) for answer in read_answers(answers)}
    assert len(prompts) == 40
    assert {prompt[0] for prompt in prompts} == {5}
    given = [f"--answers={file}" for file in answers]
    result = run(target, "--out", second, *given, "--start", first, *said[4:], "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    assert card["start"]["folder"] == "first"
    assert card["start"]["answer_tokens"] == json.loads((first / "card.json").read_text())["answer_tokens"]
    other = run(target, "--out", tmp_path / "third", *given, "--start", target)
    assert (other.exit_code, "holds no drafter" in other.output) == (1, True)
    assert not list(tmp_path.glob(".third*"))


def test_without_anything_else_prompts_are_written_as_tokens_need_them(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr("draftgraph.cli.work.train.run", lambda *arguments: found.append(arguments[4]))
    answers = ("--answers", tmp_path / "a.jsonl.gz")
    for given in ((), ("--tokens", 1000), answers, (*answers, "--own-prompts", 5), ("--start", "smollm2")):
        assert run(target, "--out", tmp_path / "drafter", *given).exit_code == 0
    assert [each.own_prompts for each in found] == [3907, 8, None, 5, 3907]
    assert [each.tokens for each in found] == [500_000, 1000, 0, 500_000, 500_000]
    assert Path(found[-1].start, "config.json").is_file()


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
