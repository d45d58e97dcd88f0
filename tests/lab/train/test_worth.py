"""The verdict of a training: figures of real requests, an interval that fresh requests fall into, and what follows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import draftgraph as dg
from cost_tables import costs
from draftgraph.backends.load import load_model
from draftgraph.lab.doctor.ways import Spread
from draftgraph.lab.predict.estimate import Estimate
from draftgraph.lab.train import worth
from draftgraph.lab.train.features.project import Project, Settings
from draftgraph.lab.train.worth import (
    BOTH,
    LOOKUP,
    PLAIN,
    TRAINED,
    Verdict,
    Worth,
    interval,
    request_seconds,
    spent,
    weigh,
)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> tuple[Any, Path, list[list[int]]]:
    """The story target, a drafter that has learnt a little of it, and prompts that it has not seen."""
    folder = tmp_path_factory.mktemp("story")
    target = load_model(shared / "models" / "stories260K", None, None, False).requires_grad_(False)
    settings = Settings(tokens=4000, most=48, batch=96, head=512, rows=256, epochs=1.5, seed=1)
    project = Project(folder / "drafter", settings)
    project.begin()
    starts = [[1, *torch.randint(3, 512, (2,), generator=torch.Generator().manual_seed(i)).tolist()] for i in range(96)]
    answers = project.answers(target, project.prompts(lambda: starts), [])
    project.train(target, answers)
    return target, project.out, project.held_out(answers)


def off(one: Estimate, other: Estimate) -> float:
    return abs(one.value - other.value) / math.hypot(one.error, other.error)


def test_a_fresh_measurement_confirms_the_verdict(
    story: tuple[Any, Path, list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other prompts, one after the other and without turns: figures are those of the requests, not of how they were taken."""
    monkeypatch.setattr(worth, "SECONDS", 0.0)
    monkeypatch.setattr(worth, "TURNS", 6)
    monkeypatch.setattr(worth, "TOKENS", (16, 16))
    source, drafter, prompts = story
    assert len(prompts) >= 12
    known, fresh = prompts[:6], prompts[6:12]
    for verdict in weigh(source, drafter, known, {}):
        assert [way.name for way in verdict.ways] == [TRAINED, LOOKUP, BOTH]
        for way in verdict.ways:
            engine = dg.Engine.from_pretrained(source, **way.options)
            results = [
                engine.generate(prompt, max_new_tokens=16, temperature=verdict.temperature, seed=i)
                for i, prompt in enumerate(fresh)
            ]
            calls = [float(result.stats.num_rounds) for result in results]
            again = worth.ratio([float(len(result.token_ids)) for result in results], calls, 0)
            assert off(way.tokens, again) < 3.5, (verdict.temperature, way.name, way.tokens, again)
            assert way.tokens.texts == 6
        assert max(way.tokens.value for way in verdict.ways) > 1.0
        json.dumps(verdict.to_dict())


def test_the_predicted_speed_is_that_of_the_rounds_that_were_taken() -> None:
    """Record by record, from a table that is written down here."""
    table = costs()
    engine = dg.Engine.from_pretrained(tiny(), drafter="lookup", budget=4)
    result = engine.generate([1, 2, 3, 1, 2, 3, 1, 2], max_new_tokens=20, temperature=0.0)
    sizes = [len(record.tokens) for record in result.rounds]
    assert 0 in sizes
    assert max(sizes) > 1
    expected = sum(
        table.plain if not n else table.target(n + 1) + table.overhead[0] + n * table.overhead[2] for n in sizes
    )
    assert sum(spent(table, record) for record in result.rounds) == pytest.approx(expected)
    first = result.rounds[0]
    read = sum(first.seconds.values())
    assert read > 0.0
    assert request_seconds(table, result) == pytest.approx(read + expected - spent(table, first))
    drafted = replace(result.rounds[0], tokens=[1, 2, 3], num_passes=2, num_evaluations=6)
    assert spent(table, drafted) == pytest.approx(table.verifying(3) + 2 * table.drafter_pass(3))


def tiny() -> Any:
    from models import tiny_lm

    return tiny_lm(vocab=24)


def way(name: str, speed: float) -> Worth:
    return Worth(name, {}, Estimate(2.0, 0.1, 8, 80), Estimate(speed, 0.02, 8, 80), Spread(speed, speed, speed, 8))


@pytest.mark.parametrize(
    ("speeds", "best", "advice"),
    [
        ((1.2, 1.4, 1.3), LOOKUP, "Lookup alone does better here"),
        ((1.2, 1.1, 1.3), BOTH, "does best here as it is used by default"),
        ((1.5, 1.1, 1.3), TRAINED, "use it with edges=()"),
        ((1.04, 1.01, 0.9), PLAIN, "Nothing pays here"),
    ],
)
def test_what_follows_is_said_by_the_fastest_way(speeds: tuple[float, ...], best: str, advice: str) -> None:
    verdict = Verdict(1.0, [way(name, speed) for name, speed in zip((TRAINED, LOOKUP, BOTH), speeds, strict=True)])
    assert verdict.best == verdict.to_dict()["best"] == best
    assert advice in verdict.told
    assert "2.00 (1.80–2.20) tokens per call" in verdict.told
    assert f"trained {speeds[0]:.2f} (" in verdict.told


def test_a_single_request_has_no_interval() -> None:
    assert interval(Estimate(2.0, math.nan, 1, 9)) == {
        "value": 2.0,
        "low": None,
        "high": None,
        "requests": 1,
        "rounds": 9,
    }
