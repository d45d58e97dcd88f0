"""Beam search gives the beams of transformers, token for token, whatever was drafted."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from converted import converted, lm
from draftgraph.draft.model import ModelDrafter
from draftgraph.engine.config import Config
from models import perturbed, tiny_lm

FAMILIES = ["llama", "gpt2", "qwen2", "opt", "gemma", "gpt_neox"]


def searched(model: PreTrainedModel, prompt: list[int], options: dict[str, Any]) -> Any:
    """What transformers finds."""
    ids = torch.tensor([prompt])
    told = {"attention_mask": torch.ones_like(ids), "return_dict_in_generate": True, "output_scores": True}
    if options["num_beams"] == 1:
        options = {name: value for name, value in options.items() if name not in ("length_penalty", "early_stopping")}
    with torch.inference_mode():
        return model.generate(ids, do_sample=False, **told, **options)


def asked(choose: random.Random) -> dict[str, Any]:
    beams = choose.choice([1, 2, 3, 5])
    options: dict[str, Any] = {
        "num_beams": beams,
        "num_return_sequences": 1 if beams == 1 else choose.randint(1, beams),
        "length_penalty": choose.choice([1.0, 0.0, 2.0, -1.0]),
        "early_stopping": choose.choice([True, False, "never"]),
        "max_new_tokens": choose.choice([1, 2, 7, 16]),
    }
    if choose.random() < 0.4:
        options["repetition_penalty"] = 1.3
    if choose.random() < 0.4:
        options["min_new_tokens"] = choose.randint(1, min(4, options["max_new_tokens"]))
    return options


@pytest.mark.parametrize("seed", range(18))
def test_beams_and_scores_are_those_of_transformers(seed: int) -> None:
    choose = random.Random(seed)
    model = tiny_lm(FAMILIES[seed % len(FAMILIES)], seed=seed, logit_gain=choose.choice([1.0, 2.0, 3.0]))
    model.generation_config.eos_token_id = choose.choice([None, 3, [3, 5], [1, 2, 9]])
    model.generation_config.pad_token_id = 0
    engine = dg.Engine.from_pretrained(model, draft_model=perturbed(model, choose.choice([0.02, 0.1])))
    options, prompt = asked(choose), [choose.randrange(10, 60) for _ in range(choose.randint(1, 8))]
    truth = searched(model, prompt, options)
    for depth, drafted in ((0, None), (1, None), (3, options["num_beams"]), (3, 2 * options["num_beams"])):
        result = engine.beam_search(prompt, dg.BeamParams(**options), num_speculative_tokens=depth, draft_beams=drafted)
        assert result.sequences.tolist() == truth.sequences.tolist()
        if options["num_beams"] > 1:
            assert result.sequences_scores.tolist() == pytest.approx(truth.sequences_scores.tolist(), abs=1e-4)
    assert engine.target.cache._used == set()


def test_a_search_on_openvino_finds_the_same_beams() -> None:
    pytest.importorskip("openvino")
    model = converted()
    engine = dg.Engine(model, ModelDrafter(model, model.vocab_size), Config(), None, frozenset())
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 20}
    for prompt in ([1, 2, 3], list(range(40))):
        result = engine.beam_search(prompt, options)
        assert result.sequences.tolist() == searched(lm(), prompt, options | {"pad_token_id": 0}).sequences.tolist()
        assert result.stats.num_target_calls < 10, "the drafter is the target"
    assert model.pool.used() == set()


def test_what_the_model_says_of_beams_is_followed() -> None:
    model = tiny_lm(logit_gain=1.0, eos=3)
    model.generation_config.update(length_penalty=-1.0, early_stopping=True, pad_token_id=0, min_new_tokens=2)
    options = {"num_beams": 4, "max_new_tokens": 12, "num_return_sequences": 4}
    engine = dg.Engine.from_pretrained(model, draft_model=perturbed(model))
    truth = searched(model, [7, 8], options)
    result = engine.beam_search([7, 8], **options)
    assert result.sequences.tolist() == truth.sequences.tolist()
    assert result.sequences_scores.tolist() == pytest.approx(truth.sequences_scores.tolist(), abs=1e-4)
