"""Acceptance by kind of prompt: sums over places, and the whole of it on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import kinds
from feature_drafters import write_drafter
from models import byte_tokenizer, tiny_lm

TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


def test_acceptance_is_of_places_not_of_prompts() -> None:
    row = kinds._row(Path("d"), "qa", 0.0, [([1.0, 0.5, 0.25, 0.25], 30), ([1.0, 1.0, 0.5, 0.0], 10)])
    assert [each.value for each in row.accepted] == pytest.approx([25 / 40, 12.5 / 25, 7.5 / 12.5])
    assert row.tokens.value == pytest.approx((30 * 2.0 + 10 * 2.5) / 40)


def test_a_position_that_no_draft_reaches_has_no_acceptance() -> None:
    row = kinds._row(Path("d"), "qa", 1.0, [([1.0, 0.0, 0.0, 0.0], 9)])
    assert kinds._plain(row)["accepted"] == [[0.0, pytest.approx(float("nan"), nan_ok=True)], None, None]
    assert kinds.cells(row)[-1].startswith("1.00 ±")


def test_every_drafter_is_measured_on_the_same_answers(tmp_path: Path) -> None:
    over = tiny_lm(vocab=300, layers=4)
    over.save_pretrained(tmp_path / "target")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "target")
    write_drafter(tmp_path / "one", over)
    write_drafter(tmp_path / "two", over)
    (tmp_path / "prompts").mkdir()
    lines = [json.dumps({"category": kind, "turns": [f"{kind} abc {i}"]}) for kind in ("qa", "rag") for i in range(3)]
    (tmp_path / "prompts" / "spec_bench_dev100.jsonl").write_text("\n".join(lines), encoding="utf-8")
    given = [f"--model={tmp_path / 'target'}", "--drafters", str(tmp_path / "one"), str(tmp_path / "two")]
    places = [f"--data={tmp_path}", f"--out={tmp_path}", f"--work={tmp_path / 'work'}"]
    for _ in range(2):  # the second time from what lies in the work folder
        kinds.main([*given, *places, "--quick"])
        rows = json.loads((tmp_path / "kinds-quick.json").read_text(encoding="utf-8"))["rows"]
        assert [row["kind"] for row in rows[:6]] == ["all", "all", "qa", "qa", "rag", "rag"]
        assert [row["temperature"] for row in rows] == [0.0, 1.0] * 6
        one, two = rows[:6], rows[6:]
        assert [row["accepted"] for row in one] == [row["accepted"] for row in two]
    assert len(list((tmp_path / "work").glob("answers-*"))) == 1
