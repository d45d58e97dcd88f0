"""Chains on models with recurrent layers: an oracle with a dial, rows that are read again, and a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import hybrids

DELTA = "3 of 4 layers linear attention (qwen3_5_text)"
PROMPT = [(7 * i * i + 3 * i) % 128 for i in range(40)]


@pytest.fixture(scope="module")
def measured() -> hybrids.Measured:
    kind, given = hybrids.families(hybrids.QUICK_SIZE)[DELTA]
    return hybrids.Measured(kind, given, hybrids.QUICK_SIZE, 4)


def test_the_oracle_is_right_as_often_as_its_dial_says(measured: hybrids.Measured) -> None:
    plain, wrong, half, right = (
        hybrids.Way("a way", measured, *given, 40) for given in ((0, 1.0), (4, 0.0), (4, 0.6), (4, 1.0))
    )
    text = plain.answer(PROMPT, 0).ids
    answers = [way.answer(PROMPT, 0) for way in (wrong, half, right)]
    assert [answer.ids for answer in answers] == [text] * 3
    assert [answers[0].rounds, answers[2].rounds] == [40, 8]
    assert 8 < answers[1].rounds < 40


def test_rows_that_are_read_again_are_counted(measured: hybrids.Measured) -> None:
    """Where all is rejected nothing was kept, but the token before the draft is fed again with every state put back."""
    plain, wrong, right = (hybrids.Way("a way", measured, *given, 12) for given in ((0, 1.0), (4, 0.0), (4, 1.0)))
    for way in (plain, wrong, right):
        way.answer(PROMPT, 0)
    assert (plain.again, right.again) == (0, 0)
    assert wrong.again > 8


def test_a_report_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = {name: given for name, given in hybrids.families(hybrids.QUICK_SIZE).items() if "lfm2" in name}
    monkeypatch.setattr(hybrids, "families", lambda size: some)
    hybrids.main(["--quick", "--out", str(tmp_path), "--lengths", "3", "--dials", "0.8"])
    rows = json.loads((tmp_path / "hybrids-quick.json").read_text(encoding="utf-8"))["rows"]
    assert [row["way"] for row in rows] == ["plain", "chain of 3, 80% right"]
    assert rows[1]["same"] == rows[1]["texts"] == 1
    assert rows[1]["length"] > 1.5
    assert "| 3 of 4 layers convolutions (lfm2) | plain | 1.00" in (tmp_path / "hybrids-quick.md").read_text()
