"""Which files the pair learns from, and which it is measured on."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from draftgraph.lab.train.corpus import collect_sources, split_sources
from draftgraph.lab.train.errors import PairTrainingError


def test_collection_leaves_out_tests_packages_and_tables(library: Path) -> None:
    found = collect_sources(library)
    assert len(found) == 150
    assert all(path.name.startswith("module_") for path in found)


def test_collection_of_the_running_standard_library() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    names = {path.relative_to(root).as_posix() for path in collect_sources(root)}
    assert {"os.py", "json/decoder.py", "collections/__init__.py"} <= names
    assert not any("test" in name.split("/")[:-1] or "site-packages" in name for name in names)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PairTrainingError, match="not a folder"):
        collect_sources(tmp_path / "absent")


def test_the_split_depends_on_names_alone(library: Path) -> None:
    paths = collect_sources(library)
    train, held_out = split_sources(paths, library)
    assert held_out
    assert len(train) > 20 * len(held_out)
    assert sorted(train + held_out) == paths
    fewer = [path for path in paths if path not in train[:50]]
    assert split_sources(fewer, library)[1] == held_out
