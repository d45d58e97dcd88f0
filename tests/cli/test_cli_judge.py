"""draftgraph judge: mine, fit, and the rule that uses what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from draftgraph.cli import app
from pairs import save_pair

CHECK = "def third(reference, answer):\n    return sum(map(ord, reference)) % 3 == sum(map(ord, answer)) % 3\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_pair(tmp_path_factory.mktemp("pair"), noise=0.2)


def test_from_questions_to_a_text_that_says_that_it_is_lossy(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, drafter = pair
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "cli_check.py").write_text(CHECK)
    prompts, mined, judge = tmp_path / "prompts.txt", tmp_path / "mined", tmp_path / "judge"
    prompts.write_text("".join(f"question {number}\n" for number in range(14)))
    options = ("--prompts", prompts, "--out", mined, "--check", "cli_check:third", "--max-new-tokens", 8, "--batch", 4)
    found = run("judge", "mine", target, drafter, *options)
    assert found.exit_code == 0, found.output
    assert "14 of 14 questions were answered right" in found.stdout
    again = run("judge", "mine", target, drafter, *options, "--json")
    assert json.loads(again.stdout)["mismatches"] > 30
    other = run("judge", "mine", drafter, target, *options)
    assert (other.exit_code, "was begun with other models" in other.output) == (1, True)

    fitted = run("judge", "fit", mined, "--out", judge)
    assert fitted.exit_code == 0, fitted.output
    assert "if the labels are shuffled" in fitted.stdout
    assert "answers are then NOT those of the target alone" in fitted.stdout
    assert json.loads(run("judge", "fit", mined, "--out", judge, "--json").stdout)["auc"].keys() >= {"test", "shuffled"}

    generate = ("generate", "question 3", "--model", target, "--draft-model", drafter, "--max-new-tokens", 12)
    lossy = (*generate, "--rule", "judge", "--judge", judge, "--budget", 4, "--backend", "torch")
    said = run(*lossy, "--threshold", 0.9, "--show")
    assert said.exit_code == 0, said.output
    assert "rule 'judge' is NOT lossless: texts may differ from the target's own" in said.stderr
    assert "NOT lossless" in said.stdout
    exact = json.loads(run(*lossy, "--threshold", 0, "--json").stdout)
    plain = json.loads(run(*generate, "--budget", 0, "--json").stdout)
    assert exact["token_ids"] == plain["token_ids"]
    assert (exact["stats"]["lossless"], plain["stats"]["lossless"]) == (False, True)
    warm = run(*lossy, "--temperature", 0.5)
    assert (warm.exit_code, "defined at temperature 0 only" in warm.stderr) == (2, True)


def test_what_is_not_possible_is_misuse(pair: tuple[Path, Path], tmp_path: Path) -> None:
    target, drafter = pair
    (tmp_path / "p.txt").write_text("ab\n")
    options = ("--prompts", tmp_path / "p.txt", "--out", tmp_path / "mined")
    for arguments, message in (
        (("judge",), "Missing command"),
        (("judge", "mien"), "No such command 'mien'"),
        (("judge", "mine", target, drafter, *options, "--check", "nix"), "write last-number, or module:function"),
        (
            ("judge", "mine", target, drafter, *options, "--backend", "openvino"),
            "--backend openvino is not possible here",
        ),
        (("generate", "x", "--rule", "judge"), "rule 'judge' needs the head"),
        (("generate", "x", "--judge", tmp_path), "judge is for rule='judge'"),
    ):
        result = run(*arguments)
        assert (result.exit_code, message in result.output) == (2, True), result.output
    absent = run("judge", "fit", tmp_path / "absent", "--out", tmp_path / "judge")
    assert (absent.exit_code, "name a folder of `draftgraph judge mine`" in absent.output) == (1, True)
