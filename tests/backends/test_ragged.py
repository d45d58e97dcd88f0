"""Requests that attend to their own cells have the rows of plain forwards, and nothing of a user's model stays changed."""

from __future__ import annotations

import copy
import random
import threading
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from converted import Text, decode
from draftgraph.backends import ragged, torch_model
from draftgraph.backends.base import Feed
from draftgraph.backends.ragged import configs_of, grouped, named
from draftgraph.backends.ragged_probe import attends_apart
from draftgraph.backends.support import takes_masks
from draftgraph.backends.torch_model import TorchModel
from draftgraph.types import ROOT
from models import tiny_lm

CLOSE = 1e-4
BOTH = {
    "num_key_value_heads": 2,
    "head_dim": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 12,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped heads": ("llama", {}),
    "own positions": ("gpt2", {}),
    "one window": ("mistral", {"num_key_value_heads": 2, "sliding_window": 12}),
    "windows and all": ("gemma3_text", BOTH),
    "caps": ("gemma2", {"tie_word_embeddings": False, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0} | BOTH),
    "sinks": ("gpt_oss", BOTH | {
        "num_local_experts": 2, "num_experts_per_tok": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }),
    "two widths": ("deepseek_v3", {
        "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 4, "n_group": 1,
        "n_routed_experts": 2, "num_experts_per_tok": 1, "topk_group": 1, "num_key_value_heads": 4,
    }),
}  # fmt: skip
PAST_THE_INTERFACE = {"attention of its own": ("falcon", {}), "a bias": ("bloom", {"n_head": 4, "n_layer": 2})}


@cache
def lm(kind: str) -> PreTrainedModel:
    family, options = (MODELS | PAST_THE_INTERFACE)[kind]
    return tiny_lm(family, window=1500, **options)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_model, "pays", lambda *_: True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """(requests, rows, cells) of every call of a model's own attention function in a pass."""
    found: list[tuple[int, int, int]] = []
    attend = ragged.Ragged.attend

    def counted(self: Any, *given: Any) -> Any:
        found.extend(group.shape for group in self.groups)
        return attend(self, *given)

    monkeypatch.setattr(ragged.Ragged, "attend", counted)
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_rows_are_those_of_plain_forwards(kind: str, always: None, calls: list[tuple[int, int, int]]) -> None:
    """Trees over several passes, early and late in one pass, wide holes, windows."""
    over = TorchModel(lm(kind))
    assert attends_apart(over)
    calls.clear()
    over._apart = True
    assert decode(over, lm(kind), [3, 40, 41, 90], random.Random(1).randrange, rounds=3) < CLOSE
    assert len(calls) > 10
    assert not over.cache._used


@pytest.mark.parametrize("kind", PAST_THE_INTERFACE)
def test_layers_that_attend_past_the_interface_are_left_alone(kind: str, always: None, calls: list[Any]) -> None:
    over = TorchModel(lm(kind))
    assert decode(over, lm(kind), [3, 40, 41], random.Random(1).randrange, rounds=2) < CLOSE
    assert over._apart is False
    calls.clear()
    decode(over, lm(kind), [3, 4], random.Random(1).randrange, rounds=1)
    assert not calls


@torch.inference_mode()
def test_it_is_looked_at_once_and_used_where_it_pays(calls: list[tuple[int, int, int]]) -> None:
    over = TorchModel(lm("grouped heads"))
    few = [Text(over, [1, 2, 3]), Text(over, [4, 5])]
    for _ in range(3):
        over.forward([Feed(text.handle, text.tokens) for text in few])
    assert over._apart is None  # a few cells
    assert not calls
    many = [Text(over, [(i * j) % 64 for j in range(300)]) for i in range(12)]
    over.forward([Feed(text.handle, text.tokens) for text in many])
    over.forward([Feed(text.handle, [6]) for text in many])
    assert over._apart is True
    assert calls
    calls.clear()
    over.forward([Feed(text.handle, [7], [8, 9], [ROOT, 0]) for text in many])
    layers = 2
    read = sum(count * cells for count, _, cells in calls)
    assert len(many) * 304 * layers <= read <= 1.2 * len(many) * 304 * layers  # and not 12 times as many


@torch.inference_mode()
def test_what_layers_change_behind_the_probe_is_an_error_and_no_wrong_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that was replaced on its way is not taken for another one's."""
    over = TorchModel(lm("grouped heads"))
    forward = type(over.model.model.layers[1].self_attn).forward  # type: ignore[union-attr]

    def other(self: Any, *given: Any, **options: Any) -> Any:
        if self.layer_idx == 1 and options.get("attention_mask") is not None:
            options["attention_mask"] = options["attention_mask"].nan_to_num()
        return forward(self, *given, **options)

    monkeypatch.setattr(type(over.model.model.layers[1].self_attn), "forward", other)  # type: ignore[union-attr]
    assert not attends_apart(over)


def names(model: PreTrainedModel) -> list[Any]:
    return [config._attn_implementation for config in configs_of(model)]


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["grouped heads", "caps"])
def test_nothing_of_the_model_stays_changed(kind: str, always: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After passes, after passes that fail, and in the middle of one for other threads, which compute as ever."""
    model = lm(kind)
    over = TorchModel(model)
    over._apart = True
    before, config = names(model), copy.deepcopy(model.config.to_dict())
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = model(ids).logits
    texts = [over.open(9) for _ in range(2)]
    feeds = [Feed(text, [5, 6, 7]) for text in texts]
    seen: dict[str, Any] = {}

    def elsewhere() -> None:
        with torch.inference_mode():
            seen["logits"] = model(ids).logits
        seen["accepted"] = takes_masks(model).outcome
        seen["named"] = [named(name) for name in names(model)]

    call = over.call

    def between(**inputs: Any) -> Any:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(60)
        return call(**inputs)

    monkeypatch.setattr(over, "call", between)
    prints = over.fingerprint
    over.forward(feeds)
    assert torch.equal(seen["logits"], expected)
    assert (seen["accepted"], seen["named"]) == ("pass", before)
    monkeypatch.setattr(over, "call", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        over.forward([Feed(text, [9]) for text in texts])
    assert (names(model), model.config.to_dict(), over.fingerprint) == (before, config, prints)
    assert torch.equal(model(ids).logits, expected)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 5000)), min_size=1, max_size=32))
def test_groups_hold_everyone_once_and_waste_little(sizes: list[tuple[int, int]]) -> None:
    groups = grouped(sizes, 2000)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        rows, cells = (max(sizes[i][axis] for i in group) for axis in (0, 1))
        padded = len(group) * cells * (rows + 24)
        own = sum(sizes[i][1] * (sizes[i][0] + 12) for i in group)
        assert padded <= 2.2 * own + 2000 * len(group)
        assert len(group) == 1 or len(group) * cells <= 2048
