"""Texts that begin alike share what was read: rows stay those of plain forwards, and memory is free when nobody holds it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from converted import Text, converted, lm
from draftgraph.backends.base import CacheHandle, CausalLM, Feed
from draftgraph.backends.cuda_graphs import CudaGraphModel
from draftgraph.backends.feature_model import FeatureModel
from draftgraph.backends.openvino.pool import CELLS
from draftgraph.backends.recurrent_model import RecurrentModel
from draftgraph.backends.torch_model import TorchModel
from draftgraph.types import ROOT
from feature_drafters import tiny_net
from models import tiny_lm
from recurrent import recurrent

CLOSE = 1e-4
BEGINNINGS = [[(7 * i * i + 3 * i + seed) % 64 for i in range(70)] for seed in (1, 2)]


@cache
def windowed() -> PreTrainedModel:
    return tiny_lm("mistral", window=1500, num_key_value_heads=2, sliding_window=12)


@cache
def mixed() -> PreTrainedModel:
    kinds = ["sliding_attention", "full_attention"]
    return tiny_lm("gemma3_text", window=1500, num_key_value_heads=1, head_dim=8, layer_types=kinds, sliding_window=12)


def openvino() -> CausalLM:
    pytest.importorskip("openvino")
    return converted()


MODELS: dict[str, Callable[[], tuple[CausalLM, PreTrainedModel]]] = {
    "torch": lambda: (TorchModel(lm()), lm()),
    "windows": lambda: (TorchModel(windowed()), windowed()),
    "windows in part": lambda: (TorchModel(mixed()), mixed()),
    "static": lambda: (CudaGraphModel(lm()), lm()),
    "openvino": lambda: (openvino(), lm()),
    "bitwise": lambda: (openvino().bitwise(), lm()),
}


def held(model: Any) -> list[int]:
    """Cells or blocks in use, as the pool says; without the one that no request holds."""
    if hasattr(model, "pool"):
        return sorted(model.pool.used())
    return sorted(model.cache._used - set(getattr(model.cache, "scratch", CacheHandle()).slots.tolist()))


def named(model: Any, texts: list[Text]) -> list[int]:
    """The same, as the texts say."""
    handles: list[Any] = [text.handle for text in texts]
    return sorted({cell for h in handles for cell in (h.blocks if hasattr(model, "pool") else h.cells().tolist())})


def worst_of(model: CausalLM, truth: PreTrainedModel, texts: list[Text], choose: Callable[[int], int]) -> float:
    """One round of these texts: how far rows are from those of plain forwards."""
    worst = 0.0
    for number in range(1 + choose(2)):
        drawn = [found for text in texts if (found := text.draw(choose, number == 0)) is not None]
        scored = model.forward([feed for feed, _ in drawn]) if drawn else []
        for (_, asked), rows in zip(drawn, scored, strict=True):
            plain = torch.stack([truth(torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in asked])
            scale = (plain - plain.mean(dim=1, keepdim=True)).abs().max()
            worst = max(worst, float((rows.logits - plain).abs().max() / scale))
    for text in texts:
        text.keep(choose)
    return worst


def opened(model: CausalLM, texts: list[Text], choose: Callable[[int], int], shares: bool) -> tuple[Text, int]:
    """A new text that shares with one that begins alike, and how much."""
    others = [text for text in texts if len(text.handle)]
    if not others or choose(3) == 0:
        return Text(model, BEGINNINGS[choose(2)][: 1 + choose(70)]), 0
    other = others[choose(len(others))]
    common = 1 + choose(len(other.handle))
    text = Text(model, [*other.tokens[:common], *(choose(64) for _ in range(1 + choose(5)))])
    model.expect(text.handle, len(text.tokens))
    count = model.share(text.handle, other.handle, common)
    assert count == len(text.handle)
    assert count in ((0, common) if shares else (0,))
    return text, count


@torch.inference_mode()
def at_random(kind: str, seed: int, steps: int) -> int:
    """Random opens, shares, rounds and closes; returns how many tokens were shared."""
    model, truth = MODELS[kind]()
    choose = random.Random(seed).randrange
    texts: list[Text] = []
    shared = 0
    for _ in range(steps):
        what = choose(4)
        if what == 0 and texts:
            model.close(texts.pop(choose(len(texts))).handle)
        elif what == 1 or not texts:
            text, count = opened(model, texts, choose, kind != "bitwise")
            texts.append(text)
            shared += count
        else:
            some = [text for text in texts if choose(3)]
            assert worst_of(model, truth, some, choose) < CLOSE
        assert held(model) == named(model, texts)
    while texts:
        model.close(texts.pop(choose(len(texts))).handle)
        assert held(model) == named(model, texts)
    return shared


@pytest.mark.parametrize("kind", MODELS)
def test_texts_that_share_have_the_rows_of_plain_forwards(kind: str) -> None:
    shared = sum(at_random(kind, seed, 30) for seed in range(2))
    assert (shared > 0) == (kind != "bitwise")


@settings(max_examples=12)
@given(st.sampled_from([kind for kind in MODELS if kind != "bitwise"]), st.integers(0, 1 << 30), st.integers(2, 25))
def test_any_order_of_opening_sharing_rounds_and_closing(kind: str, seed: int, steps: int) -> None:
    at_random(kind, seed, steps)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["torch", "static", "openvino"])
def test_shared_memory_is_counted_once_and_never_written(kind: str) -> None:
    model, _ = MODELS[kind]()
    first = Text(model, BEGINNINGS[0])
    model.forward([Feed(first.handle, first.tokens)])
    whole = len(held(model))
    contents = [memory.clone() for memory in memories(model)]
    others = [Text(model, [*first.tokens[:65], 9]) for _ in range(5)]
    assert [model.share(text.handle, first.handle, 65) for text in others] == [65] * 5
    copies = 5 if kind == "openvino" else 0  # of the last, partial block
    assert len(held(model)) == whole + copies
    choose = random.Random(4).randrange
    for _ in range(3):
        worst_of(model, lm(), [*others, first], choose)
    for before, now in zip(contents, memories(model), strict=True):
        assert torch.equal(before[..., :64, :], now[..., :64, :])
    model.close(first.handle)
    assert worst_of(model, lm(), others, choose) < CLOSE
    for text in others:
        model.close(text.handle)
    assert held(model) == named(model, [])


def memories(model: Any) -> list[torch.Tensor]:
    """Keys and values of what the first text has read, f[..., cells, width], in its order."""
    if not hasattr(model, "pool"):
        return [each[:, :, : len(BEGINNINGS[0]) + 1] for layer in model.cache.memory.tensors for each in layer]
    blocks = list(range(1, 1 + 64 // CELLS))
    return [torch.from_numpy(each[:, blocks]).transpose(1, 2).flatten(2, 3) for each in model.pool._memory]


@torch.inference_mode()
@pytest.mark.parametrize("kind", [*MODELS, "recurrent", "features"])
def test_what_cannot_be_shared_is_read(kind: str) -> None:
    """Nothing, of texts that have begun, of texts without anything, of a closed one; nothing at all of some models."""
    if kind == "recurrent":
        model: Any = RecurrentModel(recurrent("olmo_hybrid"))
    elif kind == "features":
        model = FeatureModel(*tiny_net(lm()), lm().get_input_embeddings())
    else:
        model = MODELS[kind]()[0]
    first, begun, fresh = (model.open(20) for _ in range(3))
    assert model.share(fresh, first, 5) == 0
    model.forward([Feed(first, [1, 2, 3, 4, 5, 6, 7, 8])])
    model.forward([Feed(begun, [1])])
    assert model.share(begun, first, 5) == 0
    assert model.share(fresh, first, 0) == model.share(fresh, first, -3) == 0
    assert model.share(fresh, first, 99) == (0 if kind in ("recurrent", "features", "bitwise") else 8)
    closed = model.open(20)
    model.close(first)
    assert model.share(closed, first, 5) == 0
    for text in (begun, fresh, closed):
        model.close(text)


@torch.inference_mode()
def test_forgotten_tokens_are_not_shared() -> None:
    model = TorchModel(windowed())
    long, fresh = model.open(60), model.open(60)
    model.forward([Feed(long, BEGINNINGS[0][:50])])
    assert model.share(model.open(9), long, 40) == 40  # nothing was forgotten yet
    model.forward([Feed(long, [5], [6], [ROOT])])
    assert long.forgotten
    assert model.share(fresh, long, 40) == 0


@torch.inference_mode()
def test_texts_read_with_other_positions_share_nothing() -> None:
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 1e4}
    switching = tiny_lm(
        "phi3", window=80, num_key_value_heads=2, original_max_position_embeddings=20, sliding_window=None,
        rope_parameters=factors | {"original_max_position_embeddings": 20},
    )  # fmt: skip
    model = TorchModel(switching)
    assert model.switch == 20
    texts = {length: model.open(40) for length in (12, 30)}
    for length, text in texts.items():
        model.expect(text, length)
        model.forward([Feed(text, BEGINNINGS[0][:length])])
    for length, own in ((15, 12), (33, 30)):
        for other, text in texts.items():
            fresh = model.open(40)
            model.expect(fresh, length)
            assert model.share(fresh, text, 10) == (10 if other == own else 0)
