"""Engines on OpenVINO: greedy text is that of transformers, and sampled text has exactly the target's law."""

from __future__ import annotations

import threading
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch

pytest.importorskip("openvino")

from transformers import PreTrainedModel

import draftgraph as dg
from converted import FAMILIES, converted, lm
from draftgraph.backends.base import CausalLM
from draftgraph.backends.openvino import load
from draftgraph.backends.openvino.model import OpenVinoModel
from draftgraph.backends.torch_model import TorchModel
from draftgraph.draft.edges.sources import edges_beside_model
from draftgraph.draft.model import ModelDrafter
from laws import p_value
from models import perturbed, plain, tiny_lm

PROMPTS = {
    "short": [9, 4],
    "across a block": [(7 * i + 3) % 61 for i in range(40)],
    "late": [i % 61 for i in range(300)],
}
STRUCTURES: dict[str, dict[str, Any]] = {
    "chain": {"structure": "chain", "budget": 5},
    "graph": {"structure": "graph", "budget": 12},
    "shape": {"structure": dg.structures.Tree((3, 2, 1, 1))},
}
VOCAB, LENGTH, SAMPLES = 7, 3, 500


@cache
def drafter(family: str) -> tuple[OpenVinoModel, PreTrainedModel]:
    """A drafter that agrees with the family's model in part, on OpenVINO and as it is."""
    model = perturbed(lm(family), 0.05)
    return load.from_loaded(model, None, None)[0], model


def engine(target: CausalLM, draft: CausalLM, **options: Any) -> dg.Engine:
    config = dg.Config().with_options(**options)
    edges = edges_beside_model("auto", config.resolved_structure)
    return dg.Engine(target, ModelDrafter(draft, target.vocab_size, edges), config, None, frozenset())


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_greedy_text_is_that_of_transformers(family: str, structure: str) -> None:
    model, draft = converted(family), drafter(family)[0]
    accepted = 0
    for prompt in PROMPTS.values():
        result = engine(model, draft, **STRUCTURES[structure]).generate(prompt, max_new_tokens=24)
        assert result.token_ids == plain(lm(family), prompt, 24)
        accepted += result.stats.num_accepted_tokens
    assert accepted > 10
    assert not model.pool.used()
    assert not draft.pool.used()


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("llama", "gpt2", "phi3")])
def test_every_family_alone(family: str) -> None:
    result = engine(converted(family), converted(family), budget=6).generate(PROMPTS["short"], max_new_tokens=24)
    assert result.token_ids == plain(lm(family), PROMPTS["short"], 24)
    assert result.stats.num_accepted_tokens > 10


@pytest.mark.parametrize("alone", ["target", "drafter"])
def test_one_of_the_two_models_on_openvino(alone: str) -> None:
    fast, slow = drafter("llama")
    pair = (converted(), TorchModel(slow)) if alone == "target" else (TorchModel(lm()), fast)
    result = engine(*pair, budget=8).generate(PROMPTS["short"], max_new_tokens=30)
    assert result.token_ids == plain(lm(), PROMPTS["short"], 30)


def test_long_prompts_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoModel, "most_rows", 16)
    for prompt in PROMPTS.values():
        result = engine(converted(), drafter("llama")[0], budget=8).generate(prompt, max_new_tokens=12)
        assert result.token_ids == plain(lm(), prompt, 12)


def test_threads_and_streams_that_are_dropped() -> None:
    shared, found = engine(converted(), drafter("llama")[0], budget=6), {}

    def run(number: int) -> None:
        prompt = [3 + number, 8, 5]
        next(shared.stream(prompt, max_new_tokens=30))  # closed by the garbage collector, perhaps amid another's pass
        found[number] = shared.generate(prompt, max_new_tokens=30).token_ids == plain(lm(), prompt, 30)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert found == dict.fromkeys(range(4), True)
    assert not converted().pool.used()


@cache
def small() -> PreTrainedModel:
    return tiny_lm(vocab=VOCAB, layers=1, logit_gain=1.0)


@cache
def small_pair() -> tuple[OpenVinoModel, OpenVinoModel]:
    return tuple(load.from_loaded(model, None, None)[0] for model in (small(), perturbed(small(), 0.4)))  # type: ignore[return-value]


@torch.inference_mode()
def exact(prompt: list[int], temperature: float) -> dict[tuple[int, ...], float]:
    """The law of the first tokens, by transformers' logits of every prefix."""
    law = {(): 1.0}
    for length in range(LENGTH):
        prefixes = list(product(range(VOCAB), repeat=length))
        logits = small()(torch.tensor([[*prompt, *prefix] for prefix in prefixes])).logits[:, -1]
        rows = (logits / temperature).double().softmax(-1).tolist()
        law = {
            (*prefix, token): law[prefix] * probability
            for prefix, row in zip(prefixes, rows, strict=True)
            for token, probability in enumerate(row)
        }
    return law


@pytest.mark.parametrize(
    ("temperature", "options"),
    [
        pytest.param(1.0, {"rule": "layer", "structure": "graph", "budget": 8}, id="layer on graphs"),
        pytest.param(0.7, {"rule": "block", "structure": "chain", "budget": 3}, id="block on chains"),
        pytest.param(1.0, {"rule": "agree", "structure": dg.structures.Tree((3, 2))}, id="agree on trees"),
    ],
)
def test_the_law_is_that_of_the_target(temperature: float, options: dict[str, Any]) -> None:
    decoder, prompt = engine(*small_pair(), **options), [1, 2]
    drawn = [
        decoder.generate(prompt, max_new_tokens=LENGTH, temperature=temperature, seed=3, sample=number)
        for number in range(SAMPLES)
    ]
    assert p_value([tuple(result.token_ids) for result in drawn], exact(prompt, temperature)) > 1e-4
    assert sum(result.stats.num_accepted_tokens for result in drawn) > SAMPLES / 4
