"""Which folders hold trained drafters, and of which layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from draftgraph.backends import trained
from draftgraph.backends.checkpoint import CONFIG
from draftgraph.backends.hub import Place
from draftgraph.backends.trained import find_trained
from draftgraph.errors import ModelError
from eagle3_folders import LAYOUTS, write_eagle3
from feature_drafters import write_drafter
from models import tiny_lm


def test_our_own_folders_are_recognised(tmp_path: Path) -> None:
    folder = write_drafter(tmp_path / "drafter", tiny_lm())
    for source in (folder, str(folder)):
        found = find_trained(source)
        assert found is not None
        assert found.layout.name == "draftgraph"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_eagle3_folders_are_recognised_in_every_layout(layout: str, tmp_path: Path) -> None:
    found = find_trained(write_eagle3(tmp_path, tiny_lm(layers=5), layout))
    assert found is not None
    assert found.layout.name == "EAGLE-3"


@pytest.mark.parametrize(
    "other", [None, 7, "", "none/such", tiny_lm()], ids=["none", "number", "empty", "missing", "model"]
)
def test_other_things_are_no_trained_drafters(other: object) -> None:
    assert find_trained(other) is None


def test_a_model_folder_is_no_trained_drafter(tmp_path: Path) -> None:
    tiny_lm().save_pretrained(tmp_path)
    assert find_trained(tmp_path) is None
    (tmp_path / CONFIG).write_text("[")
    assert find_trained(tmp_path) is None


def test_speculators_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({"speculators_model_type": "mtp"}))
    with pytest.raises(ModelError, match="is of speculators_model_type='mtp', which is not read"):
        find_trained(tmp_path)


def test_a_hub_name_is_downloaded_once_its_configuration_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_eagle3(tmp_path / "snapshot", tiny_lm(layers=5), "sglang")
    asked: list[tuple[str, object]] = []

    def one(name: str, file: str, local_files_only: bool) -> str:
        asked.append((name, file))
        return str(folder / file)

    def all_of(name: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, local_files_only))
        return str(folder)

    monkeypatch.setattr(trained, "locate", lambda name: Place(name, local=False))
    monkeypatch.setattr(trained, "hf_hub_download", one)
    monkeypatch.setattr(trained, "snapshot_download", all_of)
    found = find_trained("someone/EAGLE3-tiny")
    assert found is not None
    assert (found.folder, found.layout.name) == (folder, "EAGLE-3")
    assert asked == [("someone/EAGLE3-tiny", CONFIG), ("someone/EAGLE3-tiny", False)]
    (folder / CONFIG).write_text("{}")
    assert find_trained("someone/else") is None
    assert len(asked) == 3  # nothing more of an ordinary model is asked for here


def test_a_download_that_fails_is_a_model_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> str:
        raise OSError("the disk is full")

    monkeypatch.setattr(trained, "locate", lambda name: Place(name, local=False))
    monkeypatch.setattr(trained, "hf_hub_download", fails)
    with pytest.raises(ModelError, match="cannot load 'someone/name': OSError: the disk is full"):
        find_trained("someone/name")
