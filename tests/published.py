"""The published results of experiments, and whether a new result has their form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"


def read_quick(folder: Path, name: str) -> dict[str, Any]:
    """The result of a quick run, which must have the fields of the published one."""
    found = json.loads((folder / f"{name}-quick.json").read_text(encoding="utf-8"))
    known = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert found.keys() == known.keys()
    assert found["environment"].keys() == known["environment"].keys()
    assert found.get("settings", {}).keys() == known.get("settings", {}).keys()
    for part in ("rows", "gains", "surrogate"):
        assert [list(row) for row in found.get(part, ())[:1]] == [list(row) for row in known.get(part, ())[:1]]
    assert found.get("run_fields") == known.get("run_fields")
    assert [len(run) for run in found.get("runs", ())[:1]] == [len(run) for run in known.get("runs", ())[:1]]
    return found
