"""Starts: processes of their own, the second of which reads what the first has kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import start

pytest.importorskip("openvino")


def test_a_second_start_converts_nothing_and_both_are_reported(tiny_data: Path, tmp_path: Path) -> None:
    target = tiny_data / "models" / "target"
    start.main(["--model", str(target), "--quick", "--threads", "1", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "start-quick.json").read_text(encoding="utf-8"))["rows"]
    (first,), (again,) = (row["starts"] for row in rows)
    assert first["packed"] == again["packed"] > 10_000
    assert again["work"]["loading"] < first["work"]["loading"]
    assert again["caches"] == 2 * 2 * 2 * 8 * 32 * 32 * 4  # layers, keys and values, heads, width, blocks, cells, bytes
    report = (tmp_path / "start-quick.md").read_text(encoding="utf-8")
    assert "without what was imported before" in report
    assert "| f32" in report


def test_figures_are_sums_of_parts_and_shares_of_what_is_kept() -> None:
    seconds = {"importing": 2.0, "loading": 1.0, "costs": 0.0, "first token": 0.5}
    one = start.Start(seconds, seconds, peak=900, before=200, anonymous=700, packed=400, caches=100)
    assert (one.total(one.clock), one.memory, one.own) == (1.5, 1.8, 1.4)
    said = start.blocks([start.Row("f32", True, [one]), start.Row("f32", False, [one])])[2]
    assert "f32 holds with 1.50" in said
    assert "f32 MISSED with 1.80" in said
