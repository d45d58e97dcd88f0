"""Passes over many requests: every number of them at every context, with caches of their own."""

from __future__ import annotations

import json
from pathlib import Path

from experiments import batch_passes


def test_every_number_of_requests_is_timed_at_every_context(tmp_path: Path) -> None:
    batch_passes.main(["--quick", "--backend", "torch", "--threads", "1", "--out", str(tmp_path)])
    said = json.loads((tmp_path / "batch_passes-quick.json").read_text(encoding="utf-8"))
    assert [(row["context"], row["requests"]) for row in said["rows"]] == [(16, 1), (16, 2), (32, 1), (32, 2)]
    assert all(len(row["ms"]) == 2 and min(row["ms"]) > 0.0 for row in said["rows"])
    assert said["cell_bytes"] == 2 * 3 * 64 * 4  # keys and values, heads, width, bytes
    assert "45 KiB in float32" in (tmp_path / "batch_passes-quick.md").read_text(encoding="utf-8")
