"""Options come by name, as params, or both; each is read once and belongs to something."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import draftgraph as dg
from draftgraph.engine.options import read_options
from draftgraph.errors import DraftgraphError, OptionError
from ids import told
from models import byte_tokenizer, tiny_lm

PROMPT = [5, 9, 5]


@cache
def engine() -> dg.Engine:
    return dg.Engine.from_pretrained(tiny_lm(vocab=256), tokenizer=byte_tokenizer(), budget=0)


@pytest.mark.parametrize(
    "asked",
    [
        {"max_new_tokens": 6, "temperature": 0.7, "seed": 3},
        {"params": dg.SamplingParams(max_new_tokens=6, temperature=0.7, seed=3)},
        {"params": {"max_new_tokens": 6, "temperature": 0.7, "seed": 3}},
        {"params": dg.SamplingParams(max_new_tokens=99, seed=3), "max_new_tokens": 6, "temperature": torch.tensor(0.7)},
        {"params": {"max_new_tokens": np.int64(6), "temperature": 2.0}, "temperature": 0.7, "seed": np.int32(3)},
        {"params": GenerationConfig(max_new_tokens=6, do_sample=True, temperature=0.7, top_k=0), "seed": 3},
        {"params": {"max_new_tokens": 6, "do_sample": True, "temperature": 0.7, "top_k": 0, "seed": 3}},
    ],
    ids=told,
)
def test_the_same_options_in_every_form(asked: dict[str, Any]) -> None:
    exact = engine().generate(PROMPT, dg.SamplingParams(max_new_tokens=6, temperature=0.7, seed=3))
    assert engine().generate(PROMPT, **asked).token_ids == exact.token_ids
    stream = engine().stream(PROMPT, **asked)
    assert [token for event in stream for token in event.token_ids] == exact.token_ids
    assert [result.token_ids for result in engine().generate([PROMPT, PROMPT], **asked)] == [exact.token_ids] * 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"temprature": 1}, "Did you mean 'temperature'"),
        ({"max_tokens": 5}, "write max_new_tokens"),
        ({"do_sample": True}, "write temperature"),
        ({"edges": ()}, r"edges belongs to the engine; write Engine.from_pretrained\(..., edges=...\)"),
        ({"params": {"temprature": 1}}, "Did you mean 'temperature'"),
        ({"params": {5: 1}}, "params has the key 5"),
        ({"params": "greedy"}, "params='greedy' is not possible; write a SamplingParams"),
        ({"params": 64}, "params=64 is not possible"),
        ({"params": True}, "params=True is not possible"),
        ({"params": object()}, "params=<object"),
        ({"params": dg.SamplingParams}, "params=<class"),
        ({"params": []}, "0 params for 1 prompts"),
        ({"params": [dg.SamplingParams()] * 2}, "2 params for 1 prompts"),
        ({"params": [5]}, "params=5 is not possible"),
        ({"temperature": None}, "temperature=None is not possible"),
        (
            {"params": dg.SamplingParams(max_new_tokens=4), "min_new_tokens": 5},
            "min_new_tokens=5 is more than max_new_tokens=4",
        ),
        ({"logit_bias": {256: 1}}, "logit_bias names token id 256, .* 256 tokens"),
        ({"stop_token_ids": [300]}, "stop_token_ids names token id 300"),
    ],
    ids=told,
)
def test_options_that_are_not_possible(asked: dict[str, Any], message: str) -> None:
    for ask in (engine().generate, engine().stream):
        with pytest.raises(OptionError, match=message):
            ask(PROMPT, **asked)


def test_options_change_params_of_any_length() -> None:
    """An option is not held against the defaults of those that are given elsewhere."""
    long = dg.SamplingParams(max_new_tokens=400, stop_token_ids=[1])
    assert read_options(long, {"min_new_tokens": 300}, 1)[0].params.min_new_tokens == 300
    assert read_options(GenerationConfig(max_new_tokens=400), {"min_new_tokens": 300}, 1)[0].named == {"min_new_tokens"}


def test_iterators_serve_every_prompt_of_a_batch() -> None:
    said = engine().generate(PROMPT, max_new_tokens=8)
    stop = engine().tokenizer.decode(said.token_ids[3:4])
    for options in ({"stop": (text for text in [stop])}, {"stop_token_ids": iter(said.token_ids[3:4])}):
        results = engine().generate([PROMPT, PROMPT, PROMPT], max_new_tokens=8, **options)
        assert {result.finish_reason for result in results} == {"stop"}


def test_params_for_each_prompt_in_any_container_and_form() -> None:
    each = [dg.SamplingParams(max_new_tokens=2), {"max_new_tokens": 3}, GenerationConfig(max_new_tokens=4), None]
    for container in (each, tuple(each), iter(each)):
        results = engine().generate([PROMPT] * 4, container)
        assert [len(result.token_ids) for result in results] == [2, 3, 4, len(results[3].token_ids)]
    results = engine().generate([PROMPT] * 4, each, max_new_tokens=5)
    assert [len(result.token_ids) for result in results] == [5] * 4


def test_nothing_runs_if_one_of_a_batch_is_refused() -> None:
    made = dg.Engine.from_pretrained(tiny_lm(), budget=0)
    made.target.forward = pytest.fail  # type: ignore[method-assign]
    with pytest.raises(DraftgraphError):
        made.generate([PROMPT, PROMPT], [{"max_new_tokens": 2}, {"logit_bias": {64: 1}}])
    with pytest.raises(DraftgraphError):
        made.generate([PROMPT, [64]])


@pytest.mark.parametrize("given", [dg.BeamParams(num_beams=2), [dg.BeamParams(num_beams=2)]])
def test_params_of_beams_are_refused_for_one_text(given: Any) -> None:
    with pytest.raises(OptionError, match=r"BeamParams is for beams; write engine\.beam_sample"):
        read_options(given, {}, 1)
