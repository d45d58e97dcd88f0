"""Layers that read a window or a chunk, and biases by position: the text is that of transformers, beyond every window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.backends import torch_model
from draftgraph.backends.base import Feed
from draftgraph.backends.layer_kinds import LayerKind, unreadable
from draftgraph.backends.probe import honours_masks
from draftgraph.backends.row_masks import mask_holders
from draftgraph.types import ROOT
from models import perturbed, plain, tiny_lm

FULL, WINDOW = "full_attention", "sliding_attention"
PROMPT = [(7 * i * i + 3 * i) % 61 for i in range(300)]
BASE = {"tie_word_embeddings": False, "num_key_value_heads": 2, "head_dim": 8}
MIXED = BASE | {"sliding_window": "span", "layer_types": [WINDOW, FULL]}
SHARED = {
    "num_hidden_layers": 4, "layer_types": [WINDOW, FULL, WINDOW, FULL], "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": BASE | {"sliding_window": "span"},
    "mixtral": BASE | {"sliding_window": "span", "num_local_experts": 2},
    "phi3": BASE | {"sliding_window": "span", "pad_token_id": 0},
    "starcoder2": BASE | {"sliding_window": "span"},
    "qwen3": MIXED | {"use_sliding_window": True},
    "gemma2": MIXED | {"query_pre_attn_scalar": 8},
    "gemma3_text": MIXED | {"query_pre_attn_scalar": 8},
    "gemma3n_text": MIXED | SHARED | {"activation_sparsity_pattern": [0.0] * 4, "laurel_rank": 8, "intermediate_size": 48},
    "gemma4_text": MIXED | SHARED | {"global_head_dim": 16},
    "gpt_oss": MIXED | EXPERTS | {"num_local_experts": 4},
    "llama4_text": BASE | EXPERTS | {
        "attention_chunk_size": "span", "num_local_experts": 4, "intermediate_size_mlp": 48,
        "layer_types": ["chunked_attention", FULL], "no_rope_layers": [1, 0],
    },
    "olmo3": MIXED,
    "cohere2": MIXED,
    "exaone4": MIXED,
    "mimo_v2_flash": MIXED | EXPERTS | {
        "n_routed_experts": 4, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "v_head_dim": 8,
        "n_group": 1, "topk_group": 1,
    },
    "ministral": MIXED,
    "cwm": MIXED | {"bos_token_id": 0},
}  # fmt: skip
BIASED: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 4, "tie_word_embeddings": False},
    "mpt": {
        "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 360, "expansion_ratio": 2, "tie_word_embeddings": False,
    },
    "falcon": {"alibi": True, "tie_word_embeddings": False, "new_decoder_architecture": False},
}  # fmt: skip


def model(family: str, span: int = 8) -> PreTrainedModel:
    options, gain = (FAMILIES | BIASED)[family], 2.5 if family in BIASED else 1.5
    return tiny_lm(
        family, window=360, gain=gain, **{name: span if value == "span" else value for name, value in options.items()}
    )


@pytest.mark.parametrize("span", [8, 32])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_beyond_the_window_is_that_of_transformers(family: str, span: int) -> None:
    lm = model(family, span)
    engine = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 0.05), budget=12)
    expected = plain(lm, PROMPT, 16)
    result = engine.generate(PROMPT, max_new_tokens=16)
    assert result.token_ids == expected
    assert result.stats.num_accepted_tokens > 0
    engine.target.kinds = [LayerKind(kind.name) for kind in engine.target.kinds]  # the control: windows are left out
    assert engine.generate(PROMPT, max_new_tokens=16).token_ids != expected


@pytest.mark.parametrize("family", ["mistral", "llama4_text", "gemma3_text"])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 23])
def test_a_text_that_grows_over_the_window_is_that_of_transformers(family: str, length: int) -> None:
    """With every structure, with and without a drafter, read in pieces that are cut by the window."""
    lm = model(family)
    expected = plain(lm, PROMPT[:length], 20)
    for drafter in (perturbed(lm, 0.05), None):
        for structure in ("graph", "chain"):
            engine = dg.Engine.from_pretrained(lm, draft_model=drafter, budget=12, structure=structure)
            engine.target.most_rows = 5
            assert engine.generate(PROMPT[:length], max_new_tokens=20).token_ids == expected


def test_cells_that_no_layer_reads_any_more_are_free() -> None:
    lm = model("mistral")
    engine = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 0.05), budget=12)
    engine.target.most_rows = 16
    held = [len(engine.target.cache._used) for _ in engine.stream(PROMPT, max_new_tokens=60)]
    assert max(held[:-1]) <= 8 + 12 + 1
    assert engine.target.open(10_000).room == 8 + 16
    mixed = dg.Engine.from_pretrained(model("gemma3_text"), budget=12)
    assert max(len(mixed.target.cache._used) for _ in mixed.stream(PROMPT, max_new_tokens=60)) > len(PROMPT)


@pytest.mark.parametrize("structure", ["graph", "chain"])
@pytest.mark.parametrize("family", BIASED)
def test_biases_follow_positions_and_not_the_order_of_the_rows(
    family: str, structure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = model(family)
    engine = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 0.05), budget=12, structure=structure)
    for prompt in (PROMPT, PROMPT[:3]):
        result = engine.generate(prompt, max_new_tokens=40)
        assert result.token_ids == plain(lm, prompt, 40)
        assert result.stats.num_accepted_tokens > 0
    monkeypatch.setattr(torch_model, "cell_positions", lambda feeds, width: np.arange(width))  # the control
    assert honours_masks(engine.target).failed


@pytest.mark.parametrize("window", [8, 256])
def test_layers_that_hold_a_mask_of_their_own_are_shown_that_of_the_draft(window: int) -> None:
    options = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": window}
    lm = tiny_lm("gpt_neo", window=360, **options, tie_word_embeddings=False)
    buffers = [holder.bias.clone() for holder, _, _ in mask_holders(lm)]
    for structure in ("graph", "chain"):
        engine = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 0.05), budget=12, structure=structure)
        for prompt in (PROMPT, PROMPT[:3]):
            result = engine.generate(prompt, max_new_tokens=40)
            assert result.token_ids == plain(lm, prompt, 40)
            assert result.stats.num_accepted_tokens > 0
    assert [kind.span for _, _, kind in mask_holders(lm)] == [None, window]
    assert all(torch.equal(holder.bias, kept) for (holder, _, _), kept in zip(mask_holders(lm), buffers, strict=True))
    engine.target._holders = []  # the control
    assert honours_masks(engine.target).failed


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_biases_that_are_folded_into_the_mask_are_those_of_either_attention(attention: str) -> None:
    lm = model("falcon")
    lm.set_attn_implementation(attention)
    engine = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 0.05), budget=12)
    assert engine.generate(PROMPT, max_new_tokens=24).token_ids == plain(lm, PROMPT, 24)


@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "llama4_text", *BIASED])
@torch.inference_mode()
def test_requests_of_one_pass_do_not_see_each_other(family: str) -> None:
    over = torch_model.TorchModel(model(family))
    a, b = over.open(64), over.open(64)
    over.forward([Feed(a, PROMPT[:20], [1, 2, 3], [ROOT] * 3), Feed(b, PROMPT[20:50], [4, 5], [ROOT, 0])])
    over.keep(a, [2])
    over.keep(b, [0])
    rows = [scored.logits[-1] for scored in over.forward([Feed(b, [6], [7], [ROOT]), Feed(a, [8], [9], [ROOT])])]
    ids = [[*PROMPT[20:50], 4, 6, 7], [*PROMPT[:20], 3, 8, 9]]
    expected = [over.plain(torch.tensor([each]), 1)[0, 0] for each in ids]
    torch.testing.assert_close(torch.stack(rows), torch.stack(expected), atol=2e-4, rtol=1e-3)


def test_windows_of_several_lengths_in_one_kind_are_refused() -> None:
    kinds = [LayerKind(WINDOW, 8), LayerKind(WINDOW, 16)]
    assert unreadable(kinds) == "its layers of one kind have windows of several lengths (8, 16)"
    assert unreadable([LayerKind("compressed_sparse_attention")]) == (
        "its compressed_sparse_attention compresses blocks of rows in its cache, which cannot roll back rejected tokens"
    )
    assert unreadable([LayerKind(), LayerKind(WINDOW, 8)]) is None


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (LayerKind(), 0),
        (LayerKind(WINDOW, 8), 13),
        (LayerKind("chunked_attention", 8, True), 16),
        (LayerKind(WINDOW, 64), 0),
    ],
    ids=["full", "window", "chunk", "long window"],
)
def test_the_first_position_that_a_row_reads(kind: LayerKind, first: int) -> None:
    assert kind.first_read(20) == first
