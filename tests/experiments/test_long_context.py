"""Rounds behind contexts of several lengths: parts that add up, and what grows is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import long_context

pytest.importorskip("openvino")


def test_a_quick_run_measures_every_case_behind_both_contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (long_context.CASES[0], long_context.CASES[3])
    subject = long_context.Subject("random Llama", long_context.long_pair(1200), cases)
    monkeypatch.setattr(long_context, "subjects", lambda options: [(subject, options.contexts)])
    long_context.main(["--quick", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "long_context-quick.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["case"], row["context"]) for row in rows] == [
        (case.name, context) for case in cases for context in (64, 256)
    ]
    for row in rows:
        assert row["rounds"] == 4
        assert row["ms"].keys() == {*long_context.OWN, *long_context.MODELS}
        assert row["ms"]["target"] > 0.0
        assert (row["ms"]["drafter"] > 0.0) == ("lookup" not in row["case"])


def test_growth_is_named() -> None:
    def row(context: int, warping: float) -> long_context.Row:
        parts = dict.fromkeys((*long_context.OWN, *long_context.MODELS), 0.01 * context)
        return long_context.Row("pair", "tree", context, 5, parts | {"warping": warping})

    small, large = row(10, 0.2), row(20, 5.0)
    assert long_context.growth([small, large]) == ["pair, tree: +5.40 ms from 10 to 20, most of it in 'warping'"]
    assert long_context.growth([small]) == []
