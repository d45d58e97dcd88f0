"""Layers that pick what they read by an index over their rows: exact on one path, as long as they pick every token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.backends.base import Feed
from draftgraph.backends.probe import honours_masks
from draftgraph.backends.recurrent_model import RecurrentModel
from draftgraph.backends.states import IndexedLayer, StateCache, StateHandle
from draftgraph.errors import ModelError, OptionError
from models import perturbed, plain, tiny_lm
from recurrent import Scripted

LATENT = {
    "tie_word_embeddings": False, "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "index_n_heads": 2, "index_head_dim": 16, "n_routed_experts": 4, "n_group": 1,
    "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "mlp_layer_types": ["dense", "sparse"],
}  # fmt: skip
PROMPT = [(7 * i * i + 3 * i) % 61 for i in range(300)]


def model(family: str = "deepseek_v32", picked: int = 400, window: int = 400) -> PreTrainedModel:
    options: dict[str, Any] = LATENT | {"index_topk": picked}
    return tiny_lm(family, window=window, **options)


@pytest.mark.parametrize("family", ["deepseek_v32", "glm_moe_dsa"])
def test_texts_within_the_index_are_those_of_transformers(family: str) -> None:
    lm = model(family)
    for length in (1, 300):
        expected = plain(lm, PROMPT[:length], 16)
        for drafter in (perturbed(lm, 0.05), tiny_lm(window=400), None):
            engine = dg.Engine.from_pretrained(lm, draft_model=drafter, budget=4)
            engine.target.most_rows = 70  # the prompt is read in pieces
            result = engine.generate(PROMPT[:length], max_new_tokens=16)
            assert result.token_ids == expected
            assert result.stats.structure == "chain"
            assert "with an index of rows): drafts are chains" in result.choice.reason


def test_index_keys_of_rejected_tokens_are_let_go() -> None:
    lm = model()
    expected = plain(lm, PROMPT, 30)
    engine = dg.Engine.from_pretrained(lm, drafter=Scripted(expected), budget=4)
    result = engine.generate(PROMPT, max_new_tokens=30)
    assert result.token_ids == expected
    assert {len(record.path) for record in result.rounds} == {0, 1, 2, 3, 4}


def test_without_their_number_put_back_rows_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    over = RecurrentModel(model())
    assert not honours_masks(over).failed
    put_back = StateCache.restore

    def restore(cache: StateCache, saved: Any) -> None:
        indexed = [layer.indexed for layer in cache.layers]
        put_back(cache, saved)
        for layer, count in zip(cache.layers, indexed, strict=True):
            layer.indexed = count

    monkeypatch.setattr(StateCache, "restore", restore)
    assert honours_masks(over).failed


@torch.inference_mode()
def test_index_keys_are_not_copied_from_round_to_round() -> None:
    over = RecurrentModel(model())
    text = over.open(0)
    assert isinstance(text, StateHandle)
    over.forward([Feed(text, PROMPT[:200], [], [])])
    over.forward([Feed(text, PROMPT[200:201], [1, 2], [-1, 0])])
    assert text.cache is not None
    layers = [layer for layer in text.cache.layers if isinstance(layer, IndexedLayer)]
    places = [[rows.data_ptr() for rows in layer._rows if rows is not None] for layer in layers]
    assert [len(each) for each in places] == [3, 3]
    for _ in range(20):
        over.keep(text, [])
        over.forward([Feed(text, PROMPT[200:202], [1, 2], [-1, 0])])
    assert places == [[rows.data_ptr() for rows in layer._rows if rows is not None] for layer in layers]


def test_longer_texts_are_refused_with_a_remedy_that_works() -> None:
    with pytest.raises(
        ModelError, match=r"index_topk=40 tokens that score highest.*write max_position_embeddings=40 into"
    ):
        dg.Engine.from_pretrained(model(picked=40))
    short = model(picked=40, window=40)
    engine = dg.Engine.from_pretrained(short, draft_model=perturbed(short, 0.05), budget=4)
    assert engine.generate(PROMPT[:9], max_new_tokens=31).token_ids == plain(short, PROMPT[:9], 31)


def test_drafts_that_branch_are_refused() -> None:
    with pytest.raises(
        OptionError, match=r"layers that read one path.*structure=.* branches; leave it out, or write 'chain'"
    ):
        dg.Engine.from_pretrained(model(), structure="graph")
