"""A small standard library and a two-step run on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from draftgraph.lab.train.corpus import Text, prepare_text
from draftgraph.lab.train.loop import Run
from tiny import SOURCE, TINY


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small standard library with the folders that must be left out."""
    root = tmp_path / "library"
    names = [f"module_{i}.py" for i in range(150)]
    for name in [*names, "test/test_os.py", "json/tests/test_dump.py", "site-packages/x.py", "encodings/cp1.py"]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SOURCE + f"value = {len(name)}\n", encoding="utf-8")
    (root / "_sysconfigdata__linux.py").write_text("build_time_vars = {}\n")
    return root


@pytest.fixture
def text(library: Path, tmp_path: Path) -> Text:
    return prepare_text(library, tmp_path, TINY.vocab)


@pytest.fixture
def run(text: Text, tmp_path: Path) -> Run:
    """Two steps of every stage."""
    return Run(tmp_path, 1.0, text.train, compiled=False, seed=0, max_steps=2)
