"""Which folders hold trained drafters, and of which layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from draftgraph.backends.checkpoint import CONFIG
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
