"""Every model type in a process of its own: what ends the process, or never ends, is a row."""

from __future__ import annotations

import os
import re
import time
from typing import Any

import pytest

from draftgraph.lab.coverage import run as runs
from draftgraph.lab.coverage.table import CRASHED, EQUAL, UNUSABLE, Found


def test_types_are_tried_apart_and_come_back_in_turn() -> None:
    rows = list(runs.run(["musicgen", "gpt2"], ["torch"]))
    assert [(row.name, row.backends["torch"].status) for row in rows] == [("musicgen", UNUSABLE), ("gpt2", EQUAL)]
    table = runs.new_table(rows)
    assert {"draftgraph", "torch", "transformers"} <= set(table.versions)
    assert len(table.date) == len("2026-11-28")


def _die(name: str, backends: list[str], pipe: object) -> None:
    os._exit(3)


def _wait(name: str, backends: list[str], pipe: object) -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    ("work", "patience", "why"),
    [
        (_die, 600.0, r"its process ended with code 3 after \d+ s"),
        (_wait, 0.2, "it takes more than 0 s"),
    ],
    ids=["dies", "waits"],
)
def test_a_crash_is_a_row(work: Any, patience: float, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_work", work)
    [row] = runs.run(["gpt2"], ["torch"], patience)
    [found] = row.backends.values()
    assert found == Found(CRASHED, (), found.why)
    assert re.fullmatch(why, found.why)
