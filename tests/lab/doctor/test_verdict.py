"""A diagnosis in words: what pays, what does not and why, and what to try; never more than was measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from draftgraph.lab.doctor.checks import Checkup, Side
from draftgraph.lab.doctor.diagnosis import Diagnosis, Finding, _needed
from draftgraph.lab.doctor.prompts import Prompts
from draftgraph.lab.doctor.verdict import acceptance, advice, reasons, verdict
from draftgraph.lab.doctor.ways import Measured, Spread
from draftgraph.lab.predict.speed import Pace

GOOD = Measured("defaults", {}, 1.9, Spread(1.7, 1.5, 1.9, 12), 3.4, 0.002, 0.007, 0.001, 0.006)
CHECKUP = Checkup(Side("target", Path("t")), Side("drafter", Path("d")), [])


def finding(chosen: Measured = GOOD, overlap: float | None = None, needed: float | None = None) -> Finding:
    prediction: Any = None
    if overlap is not None:
        prediction = SimpleNamespace(profile=SimpleNamespace(overlap=SimpleNamespace(value=overlap, error=0.01)))
    return Finding(1.0, [chosen], chosen, prediction, needed)


def diagnosis(found: Finding, unrest: float = 1.0, share: float = 1.0) -> Diagnosis:
    return Diagnosis([found], None, unrest, share, 64, 1, "float32", 60.0, Prompts([[1]], "made up", False))


def slow(**changes: Any) -> Measured:
    return replace(GOOD, speedup=Spread(0.8, 0.7, 0.9, 12), **changes)


def test_a_pair_that_pays():
    words = verdict(finding())
    assert words.startswith("It pays at temperature 1: 1.70x (1.50–1.90 over 12 turns) plain decoding with the default")
    assert "3.40 tokens per target call, and 2.00 would break even. Predicted: 1.90x." in words
    mixed = finding(replace(GOOD, speedup=Spread(1.2, 0.9, 1.5, 12), options={"budget": 4}, predicted=None))
    assert mixed.pays == "mostly"
    assert "not on every prompt" in verdict(mixed)
    assert "budget=4" in verdict(mixed)
    assert "Predicted" not in verdict(mixed)


def test_a_pair_that_does_not_pay_and_why():
    words = verdict(finding(slow(drafter=0.02)))
    assert words.startswith(
        "It does not pay here at temperature 1: the best way that was tried, defaults, runs at 0.80x"
    )
    assert "4.25 would break even. Why: the drafter takes 71% of a round." in words


@pytest.mark.parametrize(
    ("changes", "reason", "suggestion"),
    [
        ({"drafter": 0.02}, "the drafter takes 71% of a round", "smaller drafter"),
        ({"own": 0.02}, "the target is so fast (6.0 ms per token)", "decode plainly (budget=0)"),
        ({"target": 0.03}, "5.0 times one token of plain decoding", "smaller budget"),
        ({"tokens": 1.2}, "drafts are rarely right (1.20", "Decode plainly"),
        ({}, "too few for what a round costs", "Decode plainly"),
    ],
)
def test_every_reason_has_its_suggestion(changes, reason, suggestion):
    found = slow(**changes)
    assert any(reason in told for told in reasons(found))
    assert any(suggestion in told for told in advice(CHECKUP, diagnosis(finding(found))))


def test_a_drafter_that_is_too_unlike():
    told = advice(CHECKUP, diagnosis(finding(slow(), overlap=0.4, needed=0.6)))
    assert any("more like the target" in words for words in told)
    assert not any("more like" in words for words in advice(CHECKUP, diagnosis(finding(slow(), 0.7, 0.6))))


def test_lookup_is_praised_with_care_and_explained_without_a_drafter():
    lookup = replace(GOOD, name="lookup", options={"drafter": "lookup"})
    assert any("how much a text repeats" in words for words in advice(CHECKUP, diagnosis(finding(lookup))))
    alone = Checkup(CHECKUP.target, None, [])
    assert not any("give a drafter" in words for words in advice(alone, diagnosis(finding(lookup))))
    lost = replace(lookup, speedup=Spread(1.0, 0.9, 1.1, 12))
    assert any("give a drafter" in words for words in advice(alone, diagnosis(finding(lost))))


def test_a_busy_machine_gets_no_verdict():
    busy = diagnosis(finding(), unrest=2.0)
    assert busy.busy
    assert diagnosis(finding(), share=0.8).busy
    assert not diagnosis(finding()).busy
    assert verdict(busy.findings[0], busy.busy).startswith("No verdict at temperature 1: the machine was busy.")
    assert advice(CHECKUP, busy)[0].startswith("The machine was busy")


def test_few_turns_are_admitted():
    few = finding(replace(GOOD, speedup=Spread(1.7, 1.5, 1.9, 3)))
    assert any("Only 3 turns" in words for words in advice(CHECKUP, diagnosis(few)))


def test_acceptance_beside_what_is_needed():
    assert acceptance(finding()) is None
    assert "chance 0.70 ± 0.01; 0.50 breaks even" in str(acceptance(finding(overlap=0.7, needed=0.5)))
    assert "none would break even" in str(acceptance(finding(overlap=0.7, needed=math.inf)))
    assert finding(overlap=0.7, needed=math.inf).to_dict()["needed_overlap"] is None


@pytest.mark.parametrize(("wanted", "needed"), [(1.75, 0.5), (3.0, 1.0), (0.9, 0.0), (3.5, math.inf)])
def test_the_chance_that_breaks_even(wanted, needed):
    row: Any = SimpleNamespace(level_rows=[1.0, 1.0], pace=Pace(2.0, 1.0, 1.0, 1.0, wanted))
    assert _needed(row) == pytest.approx(needed, abs=1e-9)
