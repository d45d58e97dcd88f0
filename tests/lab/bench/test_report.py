"""A benchmark's report says what it must: who lost, who departs, what is missing, and how busy the machine was."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from rich.text import Text

from draftgraph.lab.bench import plot as bench_plot
from draftgraph.lab.bench.agreement import Departure
from draftgraph.lab.bench.contenders import PLAIN
from draftgraph.lab.bench.encode import Encoded, Prompt
from draftgraph.lab.bench.machine import environment
from draftgraph.lab.bench.peers import Absent
from draftgraph.lab.bench.prompts import Broken, Entry, PromptFile
from draftgraph.lab.bench.record import Report
from draftgraph.lab.bench.report import MANY, bench_report
from draftgraph.lab.bench.session import Difference, Measured, Settings
from draftgraph.lab.bench.summary import Run
from draftgraph.view.sheet import Sheet, to_markdown

COUNT = 12
MODELS = {
    "target": "T", "drafter": "D", "target_parameters": 1000, "drafter_parameters": 100, "dtype": "float32",
    "device": "cpu", "window": 64,
}  # fmt: skip


def runs(core: float = 1.0) -> list[Run]:
    """Two tasks of COUNT / 2 prompts; "fast" wins, "slow" loses."""
    paces = {PLAIN: 1.0, "fast": 0.5, "slow": 2.0}
    return [
        Run(t, name, p, 0, i, pace, core * pace, 10, 10 if name == PLAIN else 4, 12, None if t else name != "slow")
        for t in (0.0, 1.0)
        for p in range(COUNT)
        for i, (name, pace) in enumerate(paces.items())
    ]


def make(measured: Measured, dtype: torch.dtype = torch.float32, device: str = "cpu", **encoded) -> Report:
    models = SimpleNamespace(to_dict=lambda: MODELS | {"device": device}, dtype=dtype)
    entries = [Entry(f"p{i}", "ab"[i // 6], ("x",), False) for i in range(COUNT)]
    file = PromptFile("own.jsonl", "beginnings", entries, [Broken("own.jsonl", 7, "not JSON")])
    prompts = [Prompt(entry.name, entry.task, 1, [1, 2]) for entry in entries]
    settings = Settings(10, (0.0, 1.0), 1, 0, (), (4,))
    where = environment("9.9") | {"peers": {"vllm": "1.2"}}
    return Report("draftgraph bench T D", settings, (), models, where, [file], Encoded(prompts, **encoded), measured)


def told(report: Report, everything: bool = False) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    for part in bench_report(report, everything):
        console.print(part)
    return " ".join(console.export_text().split())


def test_winners_and_losers_are_marked():
    text = told(make(Measured(runs(), ran=[PLAIN, "fast", "slow"], complete=True)))
    assert "│ fast │ wins │ 20.0 │ 2.00x (2.00–2.00) │ 2.50 ± 0.00 │ 12/12 │" in text
    assert "│ slow │ LOSES │ 5.0 │ 0.50x (0.50–0.50) │ 2.50 ± 0.00 │ 0/12 │" in text
    assert "│ transformers plain │ is 1 │" in text
    assert "INCOMPLETE" not in text
    assert "1 broken lines, left out: own.jsonl:7: not JSON" in text
    assert "vllm 1.2" in text
    assert "again: draftgraph bench T D" in text


def test_markdown_has_every_task_whole():
    text = to_markdown("Benchmark", bench_report(make(Measured(runs(), complete=True)), everything=True))
    for title in ("temperature 0", "temperature 0, a", "temperature 0, b", "temperature 1, b"):
        assert f"**{title}**" in text
    assert "| slow | LOSES | 5.0 | 0.50x (0.50–0.50) | 2.50 ± 0.00 | 48 | 3.0 | 0/12 |" in text


def test_what_is_missing_is_said():
    absent = [Absent("vllm", "not installed; do so"), Absent("slow", "failed at temperature 1: no")]
    skipped = [(f"s{i}", "too long") for i in range(MANY + 3)]
    measured = Measured(runs(), ran=[PLAIN, "fast", "slow"], absent=absent)
    text = told(make(measured, skipped=skipped))
    assert "INCOMPLETE, interrupted" in text
    assert "│ vllm │ absent │ – │" in text
    assert "│ slow │ absent" not in text, "what it did before it failed is in its row"
    assert "slow: failed at temperature 1: no" in text
    assert f"{MANY + 3} prompts left out" in text
    assert "and 3 more" in text
    assert f"s{MANY + 2}: too long" in told(make(measured, skipped=skipped), everything=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_departures_are_told_from_near_ties(dtype):
    wide, tie = Departure(3, 5, 6, 1.5, False), Departure(0, 5, 6, 1e-6, True)
    measured = Measured(runs(), [Difference("ours", 0, True, wide), Difference("ours", 1, True, tie)], complete=True)
    report = make(measured, dtype)
    text = told(report)
    assert "│ ours │ p0 │ 3 │ 1.5 │ differs │" in text
    assert "│ ours │ p1 │ 0 │ 1e-06 │ near tie │" in text
    assert ("rounds coarsely" in text) == (dtype == torch.bfloat16)
    assert report.wrong == (
        [] if dtype == torch.bfloat16 else ["ours: 1 greedy texts are not those of the target, beyond near ties"]
    )
    ended = replace(measured.differences[0], departure=Departure(3, 5, None, None, False))
    assert "│ 3 │ – │ differs │" in told(make(Measured(runs(), [ended], complete=True), dtype))


def test_a_busy_machine_is_named():
    assert "the machine was busy: plain decoding had a core for 50% of its time" in told(make(Measured(runs(0.5))))
    assert "the machine was busy" not in told(make(Measured(runs(1.0))))
    assert "the machine was busy" not in told(make(Measured(runs(0.5)), device="cuda:0"))


def test_an_empty_session_has_a_report():
    parts = bench_report(make(Measured()))
    assert not any(isinstance(part, Sheet) for part in parts)
    assert any(isinstance(part, Text) and "INCOMPLETE" in part.plain for part in parts)


@pytest.mark.parametrize("tasks", [["a", "b"] * 6, ["a"] * 12])
def test_a_picture_is_drawn(tmp_path, tasks):
    pytest.importorskip("matplotlib")
    report = make(Measured(runs()))
    for prompt, task in zip(report.encoded.prompts, tasks, strict=True):
        object.__setattr__(prompt, "task", task)
    assert bench_plot.draw(report.rows(), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 10_000
