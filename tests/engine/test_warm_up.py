"""Timing a pair before the first request, and one table for everybody who decodes with the same models."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import draftgraph as dg
from draftgraph.budget import cost_cache
from draftgraph.budget.costs import Costs
from draftgraph.engine import pair_costs as pairs
from models import perturbed, plain, tiny_lm

PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture
def measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Costs]:
    """What was really measured, into a folder of this test; no machine counts as busy."""
    made: list[Costs] = []

    def measure(*arguments: Any) -> Costs:
        made.append(measure_pair(*arguments))
        return made[-1]

    measure_pair = pairs.measure
    monkeypatch.setattr(pairs, "measure", measure)
    monkeypatch.setattr("draftgraph.engine.engine.pair_costs", pairs.pair_costs)
    monkeypatch.setattr(cost_cache, "_UNSAVED", {})
    monkeypatch.setattr(cost_cache, "_MEASURED", set())
    monkeypatch.setenv(cost_cache.FOLDER, str(tmp_path))
    for limit in ("BUSY", "WAITED"):
        monkeypatch.setattr(f"draftgraph.budget.costs.{limit}", float("inf"))
    return made


def test_after_a_warm_up_no_request_is_kept_waiting(
    measurements: list[Costs], caplog: pytest.LogCaptureFixture
) -> None:
    target = tiny_lm()
    engine = dg.Engine.from_pretrained(target, draft_model=perturbed(target))
    costs = engine.warm_up()
    assert [record.name for record in caplog.records] == ["draftgraph.timing"]
    assert engine.costs is costs is engine.warm_up()
    assert engine.generate(PROMPT, max_new_tokens=20).token_ids == plain(target, PROMPT, 20)
    assert len(measurements) == len(caplog.records) == 1


def test_the_first_request_says_that_it_waits(measurements: list[Costs], caplog: pytest.LogCaptureFixture) -> None:
    engine = dg.Engine.from_pretrained(tiny_lm())
    for _ in range(2):
        engine.generate(PROMPT, max_new_tokens=4)
    [told] = caplog.records
    assert told.levelno == logging.WARNING
    assert len(measurements) == 1


def test_a_fixed_budget_waits_for_nothing(measurements: list[Costs]) -> None:
    dg.Engine.from_pretrained(tiny_lm(), budget=4).generate(PROMPT, max_new_tokens=4)
    assert not measurements


def test_a_refresh_times_again_and_replaces_the_file(measurements: list[Costs]) -> None:
    engine = dg.Engine.from_pretrained(tiny_lm())
    first = engine.warm_up()
    again = engine.warm_up(refresh=True)
    assert len(measurements) == 2
    assert engine.costs is again is not first
    file = pairs.costs_file(engine.target, engine.drafter, engine.config)
    assert file is not None
    assert json.loads(file.read_text())["costs"]["target"]["seconds"] == again.target.seconds


@pytest.mark.parametrize("lookup", [False, True])
def test_transformers_and_the_engine_find_the_same_table(
    measurements: list[Costs], lookup: bool, tmp_path: Path
) -> None:
    target = tiny_lm()
    options: dict[str, Any] = {"draft_model": None if lookup else perturbed(target)}
    inputs = {"input_ids": torch.tensor([PROMPT]), "max_new_tokens": 12, "do_sample": False}
    target.generate(**inputs, custom_generate=dg.custom_generate(**options))
    dg.Engine.from_pretrained(target, **options).warm_up()
    target.generate(**inputs, custom_generate=dg.custom_generate(**options))
    assert len(measurements) == len(list(tmp_path.iterdir())) == 1


def test_a_drafter_that_nobody_can_name_again_is_kept_nowhere(measurements: list[Costs]) -> None:
    class Nothing(dg.Drafter):
        def propose(self, request: Any, limits: Any) -> dg.Draft:
            return dg.Draft(dg.DraftGraph())

    engine = dg.Engine.from_pretrained(tiny_lm(), drafter=Nothing())
    engine.warm_up()
    assert pairs.costs_file(engine.target, engine.drafter, engine.config) is None
    assert len(measurements) == 1
