"""The law of what the engine emits, on models whose layers read a window, a chunk, or keys with biases: against enumeration."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.backends.layer_kinds import LayerKind
from laws import p_value
from models import perturbed, tiny_lm

VOCAB, LENGTH, SAMPLES = 5, 3, 400
PROMPT = [(3 * i * i + i) % VOCAB for i in range(13)]
BASE = {"tie_word_embeddings": False, "num_key_value_heads": 2}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "window": ("mistral", BASE | {"sliding_window": 4}),
    "chunk": ("llama4_text", BASE | {
        "head_dim": 8, "attention_chunk_size": 4, "num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 48,
        "layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0],
    }),
    "biases": ("falcon", {"alibi": True, "tie_word_embeddings": False, "new_decoder_architecture": False}),
}  # fmt: skip


@cache
def target(kind: str) -> PreTrainedModel:
    family, options = KINDS[kind]
    return tiny_lm(family, vocab=VOCAB, logit_gain=1.0, **options)


@cache
def exact(kind: str) -> dict[tuple[int, ...], float]:
    """The law of the first tokens at temperature 1, from plain forwards."""
    law = {(): 1.0}
    for length in range(LENGTH):
        prefixes = list(product(range(VOCAB), repeat=length))
        with torch.inference_mode():
            logits = target(kind)(torch.tensor([[*PROMPT, *prefix] for prefix in prefixes]), use_cache=False).logits
        rows = logits[:, -1].double().softmax(-1).tolist()
        law = {
            (*prefix, token): law[prefix] * probability
            for prefix, row in zip(prefixes, rows, strict=True)
            for token, probability in enumerate(row)
        }
    return law


def sampled(engine: dg.Engine) -> list[tuple[int, ...]]:
    params = dg.SamplingParams(max_new_tokens=LENGTH, temperature=1.0, seed=11)
    return [tuple(engine.generate(PROMPT, replace(params, sample=i)).token_ids) for i in range(SAMPLES)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_is_that_of_the_target(kind: str) -> None:
    engine = dg.Engine.from_pretrained(target(kind), draft_model=perturbed(target(kind), 0.4), budget=6)
    assert p_value(sampled(engine), exact(kind)) > 1e-4


def test_the_law_without_windows_is_another() -> None:
    engine = dg.Engine.from_pretrained(target("window"), draft_model=perturbed(target("window"), 0.4), budget=6)
    engine.target.kinds = [LayerKind(kind.name) for kind in engine.target.kinds]
    assert p_value(sampled(engine), exact("window")) < 1e-6
