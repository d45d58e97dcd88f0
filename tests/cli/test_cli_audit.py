"""draftgraph prove --target: options, exit codes, output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from draftgraph.cli import app
from pairs import save_pair

OWN_RULE = """
import torch
from draftgraph import Outcome, Rule
from draftgraph.verification.layer import LayerRule

class Hot(LayerRule):
    name = "hot"
    def outcome(self, tree, p):
        return Outcome(super().outcome(tree, p).stop, lambda row: p[row] ** 0.3)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    target, drafter = save_pair(tmp_path_factory.mktemp("pair"))
    return ["--target", str(target), "--drafter", str(drafter), "--samples", "200", "--tokens", "2", "--seed", "1"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["prove", *arguments])


def test_an_honest_pair_holds(models, tmp_path):
    report = tmp_path / "audit.md"
    result = run(*models, "--prompt", "def f", "--budget", "4", "--markdown", str(report))
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "target with drafter: rule layer, structure graph, budget 4" in result.stdout
    assert "held: no difference" in result.stdout
    assert "| tokens | position 1 | 200 |" in report.read_text()


def test_a_rule_of_the_users_is_refuted(models, tmp_path: Path, monkeypatch):
    (tmp_path / "hot_rules.py").write_text(OWN_RULE)
    monkeypatch.chdir(tmp_path)
    result = run(
        *models, "--prompt", "def f", "--rule", "hot_rules:Hot", "--temperature", "0.8", "--top-p", "0.95", "--json"
    )
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["rule"], found["verdict"], found["seed"]) == ("hot", "refuted", 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "x"], "--prompt"),
        (["--drafter", "x"], "--model"),
        (["--temperature", "0"], "temperature=1"),
        (["--samples", "10"], "write n="),
        (["--vocab", "2", "--model", "x"], "--vocab"),
        (["--rule", "blok", "--target", "x"], "Did you mean 'block'"),
    ],
)
def test_misuse(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
