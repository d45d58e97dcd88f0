"""Rounds of models whose tensors lie elsewhere than the host's: nothing is mixed up, and the text is the same."""

from __future__ import annotations

from typing import Any

import pytest

import draftgraph as dg
from draftgraph.backends.cuda_graphs import CudaGraphModel
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.model import ModelDrafter
from fake_gpu import FakeGpu
from models import perturbed, tiny_lm

PROMPT = [5, 9, 3, 40, 5, 9]
FILTERS = {"top_k": 9, "top_p": 0.95, "min_p": 0.01}
PENALTIES = {"repetition_penalty": 1.2, "logprobs": True, "logit_bias": {3: 1.0}, "min_new_tokens": 4}


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        pytest.param({"budget": 0}, {"temperature": 0.9}, id="plain"),
        pytest.param({"structure": "chain", "budget": 4}, {}, id="greedy chain"),
        pytest.param({"structure": "chain", "budget": 4}, {"temperature": 0.9}, id="chain"),
        pytest.param({"structure": "tree", "budget": 8}, {"temperature": 0.9} | FILTERS, id="tree, filters"),
        pytest.param({"structure": "graph", "budget": 8}, {"temperature": 0.9} | PENALTIES, id="graph, penalties"),
        pytest.param({"rule": "agree", "budget": 6}, {"temperature": 0.9}, id="agree"),
    ],
)
def test_a_request_on_another_device_gives_the_same_text(options: dict[str, Any], sampling: dict[str, Any]) -> None:
    target = tiny_lm()
    drafter = perturbed(target, 0.1)

    def generate() -> dg.Result:
        own = ModelDrafter(CudaGraphModel(drafter), 64, ("merge", "own") if "graph" in options.values() else ())
        engine = dg.Engine(CudaGraphModel(target), own, dg.Config(**options), None, frozenset())
        return engine.generate(PROMPT, max_new_tokens=12, seed=3, **sampling)

    here = generate()
    with FakeGpu(target, drafter):
        there = generate()
    assert there.token_ids == here.token_ids
    assert there.logprobs == pytest.approx(here.logprobs)


def test_a_request_that_looks_up_on_another_device_gives_the_same_text() -> None:
    target = tiny_lm()

    def generate() -> dg.Result:
        engine = dg.Engine(
            CudaGraphModel(target), LookupDrafter(("context", "own")), dg.Config(budget=4), None, frozenset()
        )
        return engine.generate(PROMPT, max_new_tokens=12, seed=3)

    here = generate()
    with FakeGpu(target):
        assert generate().token_ids == here.token_ids
