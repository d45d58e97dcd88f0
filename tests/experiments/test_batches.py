"""Many requests at once: what is said of when tokens come, and of who is asked with how many requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from experiments.batch_contenders import Arrivals, Ours, Streamed

import draftgraph as dg
from experiments import batch_contenders, batches
from models import tiny_lm

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8]]


def test_waits_and_gaps_are_those_of_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 101.0, 102.0, 104.0, 110.0])
    monkeypatch.setattr(batch_contenders, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    arrivals = Arrivals()
    arrivals.note(0, 2)
    arrivals.note(1, 1)
    arrivals.note(1, 0)  # nothing came
    arrivals.note(0, 1)
    arrivals.note(0, 3)
    assert arrivals.waits == [1.0, 2.0]
    assert arrivals.gaps == [(10.0 - 1.0) / 4]  # the other one has had one event


def test_streams_say_when_their_tokens_come_and_give_the_same_text() -> None:
    engine = dg.Engine.from_pretrained(tiny_lm(), drafter="lookup", budget=2)
    together = Ours("together", engine).answers(PROMPTS, 8)
    streamed = Streamed("streamed", engine).answers(PROMPTS, 8)
    assert streamed.ids == together.ids
    assert len(streamed.waits) == len(streamed.gaps) == len(PROMPTS)
    assert all(gap > 0.0 for gap in streamed.gaps)
    assert together.parts["target"] > 0.0
    assert not together.waits


def test_those_who_pad_are_asked_with_few_requests_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Padded(Ours):
        """An engine that is asked as if it padded."""

    monkeypatch.setattr(batches, "Padded", Padded)
    engine = dg.Engine.from_pretrained(tiny_lm(), drafter="lookup", budget=2)

    def contenders(*given: object) -> Iterator[Ours | Streamed]:
        names = batches.PLAIN, batches.AUTO
        return iter([*(Ours(name, engine) for name in names), Streamed("streamed", engine), Padded("padded", engine)])

    monkeypatch.setattr(batches, "contenders", contenders)
    monkeypatch.setattr(batches, "prompts_of", lambda model, data, count: PROMPTS[:count])
    batches.main(["--quick", "--padded-up-to", "1", "--threads", "1", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "batches-quick.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["who"], row["size"]) for row in rows] == [
        *((who, 1) for who in (batches.PLAIN, batches.AUTO, "streamed", "padded")),
        *((who, 2) for who in (batches.PLAIN, batches.AUTO, "streamed")),
    ]
    assert [row["gap"] is None for row in rows] == [True, True, False, True, True, True, False]
