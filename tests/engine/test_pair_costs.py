"""Costs of block drafters: a block is read once per round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import draftgraph as dg
from cost_tables import costs
from dflash_folders import write_dflash
from draftgraph.budget.costs import Drafts
from draftgraph.engine import pair_costs
from eagle3_folders import write_eagle3
from models import tiny_lm


def measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(pair_costs, "measure", lambda *args: costs())
    monkeypatch.setattr(pair_costs, "block_seconds", lambda model: 0.5)
    engine = dg.Engine.from_pretrained(tiny_lm(layers=4), draft_model=folder)
    engine.drafter.identity = None
    return pair_costs.pair_costs(engine.target, engine.drafter, engine.config, engine._decode)


def test_a_round_of_a_block_drafter_costs_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(write_dflash(tmp_path, tiny_lm(layers=4)), monkeypatch)
    assert found.overhead[0] == costs().overhead[0] + 0.5
    assert found.overhead[1:] == costs().overhead[1:]
    assert found.at(0.0).overhead[0] == costs().at(0.0).overhead[0] + 0.5
    for table, usual in ((found, costs()), (found.at(0.0), costs().at(0.0))):
        assert table.round(3, [1.0]) == pytest.approx(usual.round(3, [1.0]) + 0.5)
        assert table.whole_each == pytest.approx(usual.whole_each), "copies alone do without the block"


def test_models_are_settled_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    engine = dg.Engine.from_pretrained(tiny_lm(), draft_model=tiny_lm(layers=1))
    for name, model in (("target", engine.target), ("drafter", engine.drafter.model)):
        monkeypatch.setattr(model, "settle", lambda name=name: order.append(name))
    monkeypatch.setattr(pair_costs, "measure", lambda *args: (order.append("measured"), costs())[1])
    engine.drafter.identity = None
    pair_costs.pair_costs(engine.target, engine.drafter, engine.config, engine._decode)
    assert order == ["target", "drafter", "measured"]


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, True),
        ({"budget": 5}, True),
        ({"budget": 5, "structure": "graph", "bitwise": True}, True),
        ({"bitwise": False}, False),
        ({"structure": "tree"}, False),
    ],
    ids=str,
)
def test_a_target_that_reads_copies_as_paths_is_timed_so(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], paths: bool
) -> None:
    """A row beside another one at the root is a path there. Timed as one, copies were priced by twice their rows."""
    pytest.importorskip("openvino")
    engine = dg.Engine.from_pretrained(
        tiny_lm(window=512), drafter="lookup", backend="openvino", dtype="bfloat16", **options
    )
    engine.drafter.identity = None
    asked: list[bool] = []
    monkeypatch.setattr(pair_costs, "measure", lambda *args: (asked.append(args[-1]), costs())[1])
    pair_costs.pair_costs(engine.target, engine.drafter, engine.config, engine._decode)
    assert asked == [paths]


def test_a_request_with_the_automatic_budget_has_its_prices_from_an_engine_with_a_fixed_one() -> None:
    pytest.importorskip("openvino")
    fixed, automatic = (
        dg.Engine.from_pretrained(
            tiny_lm(window=512), drafter="lookup", backend="openvino", dtype="bfloat16", budget=budget
        )
        for budget in (5, "auto")
    )
    files = [pair_costs.costs_file(engine.target, engine.drafter, engine.config) for engine in (fixed, automatic)]
    assert files[0] == files[1]


def test_costs_of_a_small_window_are_not_those_of_a_large_one() -> None:
    """Few sizes fit into it, and what a long text costs cannot be timed."""
    small, large = (dg.Engine.from_pretrained(tiny_lm(window=window), drafter="lookup") for window in (64, 1024))
    files = {pair_costs.costs_file(engine.target, engine.drafter, engine.config) for engine in (small, large)}
    assert len(files) == 2


@pytest.mark.parametrize("window", [4, 6, 7])
def test_a_window_of_few_tokens_has_costs(window: int) -> None:
    """The text behind which rounds are timed was longer, and was refused as if it had been the user's."""
    engine = dg.Engine.from_pretrained(tiny_lm(window=window), drafter="lookup")
    plain = engine.generate([1], max_new_tokens=9, temperature=0.0, budget=0)
    assert engine.generate([1], max_new_tokens=9, temperature=0.0).token_ids == plain.token_ids
    assert engine.costs.plain > 0.0


def test_drafts_of_every_form_pay_for_the_block() -> None:
    drafts = Drafts((1.0, 2.0, 3.0), ())
    found = pair_costs._with_block(replace(costs(), greedy=drafts, chains=drafts, greedy_chains=drafts), 0.5)
    paid = Drafts((1.5, 2.0, 3.0), ())
    assert (found.greedy, found.chains, found.greedy_chains) == (paid, paid, paid)


def test_other_drafters_pay_by_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(write_eagle3(tmp_path, tiny_lm(layers=4)), monkeypatch).overhead == costs().overhead


def test_blocks_are_timed(tmp_path: Path) -> None:
    engine = dg.Engine.from_pretrained(tiny_lm(layers=4), draft_model=write_dflash(tmp_path, tiny_lm(layers=4)))
    assert engine.drafter.model is not None
    assert pair_costs.block_seconds(engine.drafter.model) > 0.0
    assert not engine.drafter.model.cache.handles
