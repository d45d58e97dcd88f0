"""Drafts on a quantised model: prompts of three kinds, and figures by kind."""

from __future__ import annotations

import json

import pytest

from draftgraph.lab.turns import Timed, Turn
from experiments import quantised


def test_prompts_are_of_three_kinds(tmp_path):
    bench = [{"category": c, "turns": [f"{c} {'x' * i}"]} for i in range(3) for c in ("rag", "summarization", "qa")]
    human = [{"prompt": "def f():\n", "canonical_solution": "    return 1\n"}] * 2
    for name, lines in (("spec_bench_dev100", bench), ("humaneval_dev64", human)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = list(quantised.messages(tmp_path, 2))
    assert [kind for kind, _ in found] == ["summary"] * 2 + ["question"] * 2 + ["edit"] * 2
    assert found[0][1] == "summarization "
    assert "```python\ndef f():\n    return 1\n```" in found[5][1]


def test_ratios_are_those_of_the_same_turn():
    def timed(seconds: float, ids: list[int]) -> Timed:
        return Timed(0, seconds, seconds, quantised.Begun(ids, 2, 4, first=1.0, emitted=2))

    turns = [
        Turn(0, 0, {way: timed(4.0 if way == "plain" else 2.0, [1, 2, 3, 4]) for way in quantised.WAYS}, {}),
        Turn(1, 0, {way: timed(4.0, [1, 2, 3, 4 + (way == "auto")]) for way in quantised.WAYS}, {}),
    ]
    rows = {(row.kind, row.way): row for row in quantised.rows(["summary", "edit"], turns)}
    assert rows["all", "auto"].ratio[0] == pytest.approx(1.5)
    assert rows["summary", "auto"].after == pytest.approx(3.0)
    assert (rows["all", "auto"].same, rows["all", "5 nodes"].same) == (1, 2)
    assert rows["summary", "3 nodes"].ratio == (2.0, 2.0, 2.0)
    assert rows["edit", "plain"].length == 2.0
