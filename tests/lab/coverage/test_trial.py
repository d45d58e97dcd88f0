"""A short set of model types, over the kinds of caches that there are, goes through the trial; and what is wrong is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from draftgraph.backends.layer_kinds import LayerKind
from draftgraph.backends.states import StateCache
from draftgraph.engine.engine import Engine
from draftgraph.errors import ModelError
from draftgraph.lab.coverage import trial
from draftgraph.lab.coverage.models import Reference, reference, target
from draftgraph.lab.coverage.small import SPAN, WINDOW, named_types, small_config
from draftgraph.lab.coverage.table import CRASHED, EQUAL, REFUSED, UNUSABLE, WRONG, Found

GRAPHS, CHAINS = ("graph", "tree", "chain"), ("chain",)
SHORT_SET = {
    "llama": GRAPHS, "gemma3_text": GRAPHS, "phi3, longrope": GRAPHS, "falcon, ALiBi": GRAPHS, "gpt_neo": GRAPHS,
    "roberta": GRAPHS, "lfm2": CHAINS, "deepseek_v32, texts within the index": CHAINS,
}  # fmt: skip
"""Full attention, windows, long positions, biases, masks of its own, positions of its own, states, an index."""


@pytest.mark.parametrize("name", SHORT_SET)
def test_a_type_of_every_kind_is_equal(name: str) -> None:
    row = trial.examine(name, ["torch"])
    assert row.backends == {"torch": Found(EQUAL, SHORT_SET[name])}
    assert row.class_name == named_types()[name]


def test_texts_are_longer_than_windows_and_shorter_than_contexts() -> None:
    assert trial.SHORT < SPAN < trial.SHORT + trial.TOKENS[trial.SHORT]
    assert SPAN < trial.LONG < trial.LONG + trial.TOKENS[trial.LONG] < WINDOW
    config = small_config("gemma3_text")
    assert (config.sliding_window, config.max_position_embeddings) == (SPAN, WINDOW)
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}


def test_refusals_and_what_transformers_does_not_run_are_told_by_their_cause() -> None:
    refused = trial.examine("deepseek_v32", ["torch"]).backends["torch"]
    assert (refused.status, refused.drafts) == (REFUSED, ())
    assert "write max_position_embeddings=32 into its configuration" in refused.why
    unusable = trial.examine("musicgen", ["torch"]).backends["torch"]
    assert unusable.status == UNUSABLE
    assert unusable.why.startswith("it is not built: AttributeError")


def tried(name: str) -> Found:
    model = target(name, trial.prompt(trial.SHORT), trial.TOKENS[trial.SHORT])
    texts = {length: reference(model, trial.prompt(length), tokens) for length, tokens in trial.TOKENS.items()}
    return trial._found(model, texts, "torch")


def leave_out_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Engine.from_pretrained

    def without(*arguments: Any, **options: Any) -> Engine:
        engine = made(*arguments, **options)
        engine.target.kinds = [LayerKind(kind.name) for kind in engine.target.kinds]
        return engine

    monkeypatch.setattr(trial.Engine, "from_pretrained", without)


def test_a_window_that_is_left_out_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_windows(monkeypatch)
    found = tried("gemma3_text")
    assert found.status == WRONG
    assert "differs by" in found.why


def test_a_state_that_is_not_put_back_is_refused_by_the_probe_and_wrong_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(StateCache, "restore", lambda cache, saved: None)
    assert tried("lfm2").status == REFUSED
    monkeypatch.setattr("draftgraph.backends.choice.probe", lambda model, backend=None: None)
    assert tried("lfm2").status == WRONG


def test_what_nobody_foresaw_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "near", lambda model: 1 / 0)
    assert tried("llama") == Found(CRASHED, (), "ZeroDivisionError: division by zero")


def test_another_token_is_wrong_unless_it_is_a_near_tie() -> None:
    model = target("llama", trial.prompt(trial.SHORT), 8)
    engine = Engine.from_pretrained(model, budget=4)
    right = reference(model, trial.prompt(trial.SHORT), 8)
    other = Reference([*right.text[:3], (right.text[3] + 1) % 97, *right.text[4:]], right.rows.clone())
    other.rows[3, other.text[3]] = other.rows[3].max() + 1.0
    with pytest.raises(trial.WrongError, match="graph: token 3 after a prompt of 12 differs by 1"):
        trial._compared(engine, {trial.SHORT: other}, trial.SHORT)
    other.rows[3, other.text[3]] = right.rows[3].max() + 1e-6
    assert trial._compared(engine, {trial.SHORT: other}, trial.SHORT).token_ids == right.text
    assert torch.isfinite(right.rows).all()


def test_drafters_that_are_refused_refuse_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise ModelError("no; write another")

    monkeypatch.setattr(trial.Engine, "from_pretrained", refuse)
    assert tried("llama") == Found(REFUSED, (), "no; write another")
