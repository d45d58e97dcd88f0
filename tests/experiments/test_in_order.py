"""Copies, drafter, both: ratios of the same prompt, texts that loop, and the whole of it on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from experiments.in_order import BOTH, LOOKUP, PLAIN, TRAINED, Run

from experiments import in_order
from feature_drafters import write_drafter
from models import byte_tokenizer, tiny_lm

TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


def run(prompt: int, way: str, tokens: int, rounds: int, seconds: float, ids: list[int] | None = None) -> Run:
    return Run(prompt, "qa", 0.0, way, ids or list(range(tokens)), tokens, rounds, seconds, seconds / 2, {})


def test_ratios_are_those_of_the_same_prompt() -> None:
    loop = [1, 2, 3, 4] * 5
    runs = [
        run(0, PLAIN, 20, 20, 2.0), run(0, BOTH, 20, 10, 1.0),
        run(1, PLAIN, 20, 20, 2.0, loop), run(1, BOTH, 20, 5, 0.5, loop),
    ]  # fmt: skip
    found = {(row.texts, row.way): row for row in in_order.rows(runs)}
    assert found["all", BOTH].ratio == pytest.approx(4.0 / 1.5)
    assert found["all", BOTH].core == pytest.approx(4.0 / 1.5)
    assert found["all", BOTH].tokens == pytest.approx(40 / 15)
    assert found["without loops", BOTH].prompts == 1
    assert found["without loops", BOTH].ratio == pytest.approx(2.0)
    assert found["qa", PLAIN].ratio == pytest.approx(1.0)


def test_all_ways_answer_alike(tmp_path: Path) -> None:
    over = tiny_lm(vocab=300, layers=4)
    over.save_pretrained(tmp_path / "target")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "target")
    write_drafter(tmp_path / "drafter", over)
    (tmp_path / "prompts").mkdir()
    lines = [json.dumps({"category": kind, "turns": [f"{kind} abc abc"]}) for kind in ("qa", "rag")]
    (tmp_path / "prompts" / "spec_bench_dev100.jsonl").write_text("\n".join(lines), encoding="utf-8")
    places = [f"--{name}={tmp_path / place}" for name, place in (("model", "target"), ("drafter", "drafter"))]
    in_order.main([*places, "--mode=torch f32", "--quick", f"--data={tmp_path}", f"--out={tmp_path}"])
    found = json.loads((tmp_path / "in_order-quick-torch-f32.json").read_text(encoding="utf-8"))
    assert {row["way"] for row in found["rows"]} == {PLAIN, LOOKUP, TRAINED, BOTH}
    greedy = [answer for answer in found["answers"] if answer["temperature"] == 0.0]
    for prompt in (0, 1):
        assert len({tuple(answer["ids"]) for answer in greedy if answer["prompt"] == prompt}) == 1
    assert not any("copies" in answer["decisions"] for answer in found["answers"] if answer["way"] == TRAINED)
