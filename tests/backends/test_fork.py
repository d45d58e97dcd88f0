"""Texts that fork share what they have in common: rows stay those of plain forwards, and memory is free when nobody holds it."""

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
from draftgraph.backends.recurrent_model import RecurrentModel
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import ModelError
from draftgraph.types import ROOT
from feature_drafters import tiny_net
from models import tiny_lm
from recurrent import recurrent

CLOSE = 1e-4


@cache
def windowed() -> PreTrainedModel:
    return tiny_lm("mistral", window=1500, num_key_value_heads=2, sliding_window=12)


def openvino() -> CausalLM:
    pytest.importorskip("openvino")
    return converted()


MODELS: dict[str, Callable[[], tuple[CausalLM, PreTrainedModel]]] = {
    "torch": lambda: (TorchModel(lm()), lm()),
    "windows": lambda: (TorchModel(windowed()), windowed()),
    "static": lambda: (CudaGraphModel(lm()), lm()),
    "openvino": lambda: (openvino(), lm()),
}


def held(model: Any) -> set[int]:
    """Cells or blocks in use, without those that no request holds."""
    if hasattr(model, "pool"):
        return set(model.pool.used())
    return set(model.cache._used - set(getattr(model.cache, "scratch", CacheHandle()).slots.tolist()))


def named(model: Any, texts: list[Text]) -> set[int]:
    handles: list[Any] = [text.handle for text in texts]
    return {cell for h in handles for cell in (h.blocks if hasattr(model, "pool") else h.cells().tolist())}


def pass_of(
    model: CausalLM, truth: PreTrainedModel, texts: list[Text], choose: Callable[[int], int], first: bool
) -> float:
    """A pass over these texts: how far its rows are from those of plain forwards."""
    drawn = [found for text in texts if (found := text.draw(choose, first)) is not None]
    worst = 0.0
    for (_, asked), rows in zip(drawn, model.forward([feed for feed, _ in drawn]) if drawn else [], strict=True):
        plain = torch.stack([truth(torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in asked])
        scale = (plain - plain.mean(dim=1, keepdim=True)).abs().max()
        worst = max(worst, float((rows.logits - plain).abs().max() / scale))
    return worst


def forked(text: Text, choose: Callable[[int], int]) -> Text:
    """A text that goes on behind any node of another one's round, with a token of its own."""
    path = text.path(choose(len(text.nodes) + 1) - 1)
    other = Text(text.model, [*text.tokens, *(text.nodes[node][1] for node in path), choose(64)])
    other.handle = text.model.fork(text.handle, path)
    assert len(other.handle) == len(other.tokens) - 1
    return other


def parted(text: Text, choose: Callable[[int], int]) -> Text:
    """A text that parts from another one between rounds, with another last token."""
    other = Text(text.model, [*text.tokens[:-1], choose(64)])
    other.handle = text.model.fork(text.handle, [])
    return other


@torch.inference_mode()
def at_random(kind: str, seed: int, rounds: int) -> int:
    """Rounds in which texts fork, go on and end; returns how many forks there were."""
    model, truth = MODELS[kind]()
    choose = random.Random(seed).randrange
    texts = [Text(model, [choose(64) for _ in range(1 + choose(40))])]
    forks = 0
    for _ in range(rounds):
        for number in range(1 + choose(2)):
            assert pass_of(model, truth, texts, choose, number == 0) < CLOSE
        new = [forked(text, choose) for text in texts for _ in range(choose(3))][:5]
        forks += len(new)
        for text in texts:
            text.keep(choose)
        texts += new
        texts += [parted(text, choose) for text in texts if choose(4) == 0]
        while len(texts) > 4 or (len(texts) > 1 and choose(4) == 0):
            model.close(texts.pop(choose(len(texts))).handle)
        assert held(model) == named(model, texts)
    for text in texts:
        model.close(text.handle)
    assert held(model) == set()
    return forks


@pytest.mark.parametrize("kind", MODELS)
def test_texts_that_fork_have_the_rows_of_plain_forwards(kind: str) -> None:
    assert at_random(kind, 1, 12) > 5


@settings(max_examples=10)
@given(st.sampled_from(list(MODELS)), st.integers(0, 1 << 30), st.integers(1, 8))
def test_any_order_of_forking_rounds_and_closing(kind: str, seed: int, rounds: int) -> None:
    at_random(kind, seed, rounds)


@torch.inference_mode()
def test_a_fork_takes_no_cells_of_its_own() -> None:
    model = TorchModel(lm())
    text = model.open(30)
    model.forward([Feed(text, list(range(20)), [1, 2, 3], [ROOT, 0, 1])])
    before = held(model)
    others = [model.fork(text, path) for path in ([], [0], [0, 1, 2])]
    assert held(model) == before
    assert [len(other) for other in others] == [20, 21, 23]
    model.keep(text, [0])
    model.close(text)
    assert len(held(model)) == 23
    for other in others:
        model.close(other)
    assert held(model) == set()


@torch.inference_mode()
def test_models_whose_texts_cannot_fork_say_so() -> None:
    path, features = (
        RecurrentModel(recurrent("olmo_hybrid")),
        FeatureModel(*tiny_net(lm()), lm().get_input_embeddings()),
    )
    for model in (path, features):
        assert not model.forks
        with pytest.raises(ModelError, match="cannot fork"):
            model.fork(model.open(9), [])


def test_passes_that_agree_bit_for_bit_do_not_fork() -> None:
    model = openvino().bitwise()
    assert not model.forks
    with pytest.raises(ModelError, match="bitwise=False"):
        model.fork(model.open(9), [])
