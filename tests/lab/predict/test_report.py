"""A prediction in words: what is advised, and when nothing is."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from draftgraph.budget.costs import Cost, Costs
from draftgraph.draft.structures.tree import Tree
from draftgraph.lab.predict.estimate import Estimate
from draftgraph.lab.predict.prediction import Prediction, Row
from draftgraph.lab.predict.profile import Profile
from draftgraph.lab.predict.report import report
from draftgraph.lab.predict.speed import pace
from draftgraph.lab.predict.surrogate import Check

ONE = Estimate(0.5, 0.01, 4, 40)
PROFILE = Profile(
    4, 40, ONE, [0.1] * 5, [2] * 20, [0.1, math.nan] * 5, ONE, ONE, Estimate(5.0, math.nan, 1, 1), 1.0, 1.5, 1.6, [], []
)
CALM = Cost((1, 2, 4), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (9, 9, 9))


def prediction(drafter_cost: float = 0.1, busy: bool = False, timed: bool = True) -> Prediction:
    drafter = replace(CALM, seconds=(drafter_cost,) * 3)
    target = replace(CALM, high=(9.0,) * 3) if busy else CALM
    costs = Costs(target, drafter, (0.0, 0.0, 0.0), 0.0, 1, 8)
    rows = [
        Row("chain 2", "block", {"budget": 2}, Estimate(2.0, 0.1, 4, 40), True, 2.0, [1.0, 1.0]),
        Row("tree 2·1", "layer", {"structure": Tree((2, 1))}, Estimate(2.4, math.nan, 1, 40), False, 4.0, [1.0, 2.0]),
    ]
    if timed:
        rows = [replace(row, pace=pace(costs, row.tokens.value, row.nodes, row.level_rows)) for row in rows]
    check = Check(ONE, ONE, Estimate(0.02, 0.01, 4, 40))
    return Prediction(1.0, "own", PROFILE, rows, check, [0.6, 0.4], costs if timed else None)


def text(found: Prediction) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(report(found))
    return " ".join(console.file.getvalue().split())


def test_the_best_choice_is_told_with_how_to_ask_for_it():
    found = text(prediction())
    assert "best: tree 2·1 under rule layer, 2.00× plain decoding" in found
    assert "The best chain is chain 2 under rule block" in found
    assert "structure=dg.structures.Tree(branching=(2, 1))" in found
    assert "break-even 1.20" in found


def test_a_pair_that_loses_is_advised_against():
    assert "do not speculate with this pair here" in text(prediction(drafter_cost=5.0))


def test_a_table_of_costs_that_was_made_on_a_busy_machine_gives_no_advice():
    found = text(prediction(busy=True))
    assert "no advice: the machine was busy" in found
    assert "do not trust the speeds" in found
    assert "Ask again when it is idle, which times them again" in found
    assert "delete" not in found


def test_target_and_drafter_may_be_timed_at_different_numbers_of_rows():
    one = prediction()
    other = Cost((1, 16), (0.25, 0.5), (0.25, 0.5), (0.25, 0.5), (9, 9))
    found = text(replace(one, costs=replace(one.costs, drafter=other, note="read from costs-1.json")))
    assert "ms per pass by rows (read from costs-1.json)" in found
    assert "250.00 (250.00–250.00) │ – │ – │ 500.00 (500.00–500.00)" in found


def test_without_speed_tokens_decide():
    found = text(prediction(timed=False))
    assert "most tokens per target call: tree 2·1 under rule layer (2.40)" in found
    assert "ms per pass" not in found


def test_errors_that_are_not_known_are_not_made_up():
    found = text(prediction())
    assert "2.40 ± ?" in found
    assert "nan" not in found


@pytest.mark.parametrize(("source", "words"), [("own", "exact rows are unbiased"), ("natural", "approximation")])
def test_the_source_of_the_texts_is_told(source, words):
    assert words in text(replace(prediction(), source=source))


def test_measured_stands_beside_predicted():
    found = prediction()
    measured = Estimate(2.2, 0.1, 4, 30)
    found = replace(found, rows=[replace(found.rows[0], measured=measured), found.rows[1]])
    assert "2.20 ± 0.10" in text(found)
    assert "+1.4 s.e." in text(found)
