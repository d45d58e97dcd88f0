"""The command that trains the bundled pair."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from draftgraph.lab.train import pair
from draftgraph.lab.train.grow import model_config
from tiny import TINY


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(pair.main)
    return app


def test_the_command_explains_a_wrong_folder(command: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "out"), "--source", str(tmp_path / "absent")])
    assert result.exit_code == 2
    assert "not a folder" in " ".join(result.output.split())


@pytest.mark.parametrize(("options", "checkpoints"), [([], ".pair-checkpoints"), (["--checkpoints", "kept"], "kept")])
def test_only_what_is_shipped_is_in_the_folder(
    command: typer.Typer,
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    checkpoints: str,
) -> None:
    models = [LlamaForCausalLM(model_config(TINY, layers)).eval() for layers in (3, 1)]
    monkeypatch.setattr(pair, "Shape", lambda: TINY)
    monkeypatch.setattr(pair, "train_pair", lambda *_: (models[0], models[1:]))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, ["--out", "pair", "--source", str(library), *options])
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "pair").iterdir()} == {"target", "drafter", "report.json"}
    assert {path.name for path in (tmp_path / checkpoints).iterdir()} == {"tokenizer.json"}
