"""Every example runs as it stands; one of them in a process of its own, as a user would run it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
ALONE = "generate"


def test_an_example_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    [example] = (path for path in EXAMPLES if path.stem == ALONE)
    done = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("example", [path for path in EXAMPLES if path.stem != ALONE], ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example)])
    try:
        runpy.run_path(str(example), run_name="__main__")
    except SystemExit as end:
        assert not end.code  # noqa: PT017  # what it needs is not installed, which it says


def test_examples_fit_on_a_screen() -> None:
    assert all(len(example.read_text().splitlines()) <= 55 for example in EXAMPLES)
