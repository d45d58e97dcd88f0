"""The GPU experiment, on the CPU: what it measures is there, what fails is told, and its dial turns."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from experiments.gpu import Section
from experiments.gpu_report import blocks
from experiments.gpu_stage import Stage
from experiments.host_reads import counted
from experiments.peaked import Shape

from draftgraph.draft.model import ModelDrafter
from experiments import gpu, gpu_measures, gpu_stage

TINY = Shape(256, 32, 48, 1, 2, 2, 2048)
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_stage, "TINY", dict.fromkeys(("1B", "8B", "drafter"), TINY))
    monkeypatch.setattr(gpu_stage, "WARMED_ROWS", (1, 2))
    monkeypatch.setattr(gpu_measures, "ROWS", (1, 4))
    monkeypatch.setattr(gpu_measures, "AGREEMENTS", (0.8,))
    ways = {way: gpu_measures.WAYS[way] for way in (gpu_measures.PLAIN, "chain 4", "tree 16")}
    monkeypatch.setattr(gpu_measures, "WAYS", ways)


@pytest.mark.usefixtures("short")
def test_every_section_measures_and_is_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "QUICK_MINUTES", 60.0)
    gpu.main(["--quick", "--cpu", "--minutes", "60", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "gpu-quick.json").read_text(encoding="utf-8"))
    assert found["errors"] == {}
    assert all(found["sections"].values())
    speeds = found["sections"]["speeds 1B"]
    assert {row["temperature"] for row in speeds} == {0.0, 1.0}
    assert not any("error" in row for row in speeds)
    text = (tmp_path / "gpu-quick.md").read_text(encoding="utf-8")
    assert "T(n) of the target, 1B, ms" in text
    assert "chain 4, graphs" in text


def test_a_section_that_fails_is_told_and_keeps_its_rows(capsys):
    def measure(stage, until):
        yield {"device": "a toaster"}
        raise RuntimeError("no bread")

    section = Section("machine", measure, 1.0)
    gpu.run(section, Stage(CPU, True), time.perf_counter() + 60.0)
    assert section.rows == [{"device": "a toaster"}]
    told = [part for part in blocks({"machine": section.rows}, {"machine": section.error}) if isinstance(part, str)]
    assert told[-1].startswith("Section 'machine' failed: RuntimeError: no bread")


ENDLESS = """
import time, torch
from experiments import gpu, gpu_stage
gpu.GRACE_SECONDS = 0.0
section = gpu.Section("machine", lambda stage, until: [time.sleep(60.0)], 1.0)
gpu.run(section, gpu_stage.Stage(torch.device("cpu"), True), time.perf_counter())
print(section.error)
"""


def test_a_section_that_does_not_end_is_stopped():
    """In a process of its own, which the alarm may ring through."""
    done = subprocess.run([sys.executable, "-c", ENDLESS], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert "TimeoutError: the section took too long" in done.stdout, done.stderr


@pytest.mark.usefixtures("short")
def test_the_dial_sets_how_often_the_drafter_is_right():
    pair = Stage(CPU, True, torch.float32).size("1B")
    accepted = []
    for agreement in (0.3, 0.9):
        pair.agree(agreement)
        engine = pair.engine(gpu_stage.GRAPHS, structure="chain", budget=4)
        assert isinstance(engine.drafter, ModelDrafter)
        accepted.append(engine.generate([3, 5], max_new_tokens=200).stats.mean_acceptance_length)
    assert accepted[0] + 1.0 < accepted[1]


def test_waits_are_counted_by_place():
    with counted(CPU) as found:
        torch.ones(2).tolist()
        torch.tensor([1], device=CPU)
        torch.ones(2) + 1
    assert sum(found.values()) == 2
    assert all(place.startswith("experiments/test_gpu.py:") for place in found)
