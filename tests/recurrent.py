"""Tiny models with recurrent layers, and drafts of which any part is right."""

from __future__ import annotations

from functools import cache
from typing import Any

from transformers import PreTrainedModel

import draftgraph as dg
from models import tiny_lm

UNTIED = {"tie_word_embeddings": False, "num_key_value_heads": 2}
LINEAR, FULL, WINDOW = "linear_attention", "full_attention", "sliding_attention"
DELTA = UNTIED | {
    "layer_types": [LINEAR, FULL], "head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2, "num_experts": 4}
MAMBA = UNTIED | {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 16, "mamba_expand": 2,
}  # fmt: skip
LATENT = EXPERTS | {
    "layer_types": [LINEAR, FULL], "num_key_value_heads": 4, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "qk_nope_head_dim": 8, "num_expert_group": 1, "topk_group": 1, "num_experts_per_token": 2, "tie_word_embeddings": False,
    "mlp_layer_types": ["dense", "sparse"], "linear_head_dim": 8, "linear_num_heads": 4, "qk_head_dim": 16, "head_dim": 8,
}  # fmt: skip
INKLING = EXPERTS | {
    "layer_types": ["hybrid_sliding", "hybrid"], "num_key_value_heads": 2, "head_dim": 8, "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2, "swa_head_dim": 8, "sliding_window_size": 8, "n_routed_experts": 4,
}  # fmt: skip
ZAMBA = UNTIED | {
    "layers_block_type": [LINEAR, "hybrid", LINEAR], "attention_hidden_size": 64, "attention_head_dim": 16,
    "num_key_value_heads": 4, "mamba_d_state": 8, "num_hidden_layers": 3,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_next": DELTA | EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3_5_text": DELTA,
    "olmo_hybrid": DELTA | {"num_key_value_heads": 4},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64},
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "granitemoehybrid": MAMBA | EXPERTS | {
        "layer_types": [LINEAR, FULL], "num_local_experts": 4, "shared_intermediate_size": 48,
    },
    "nemotron_h": UNTIED | EXPERTS | {
        "layers_block_type": [LINEAR, "moe", FULL, "mlp"], "num_hidden_layers": 4, "head_dim": 8, "ssm_state_size": 8,
        "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1, "chunk_size": 16, "n_routed_experts": 4,
        "moe_shared_expert_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    },
    "lfm2": UNTIED | {"layer_types": ["conv", FULL]},
    "lfm3": UNTIED | {
        "layer_types": ["conv", FULL, WINDOW], "num_hidden_layers": 3, "head_dim": 8, "sliding_window": 8,
    },
    "mamba2": {
        "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 16, "expand": 2,
        "tie_word_embeddings": False,
    },
    "kimi_linear": LATENT,
    "bailing_hybrid": LATENT | {"first_k_dense_replace": 1, "num_nextn_predict_layers": 0},
    "zaya": UNTIED | EXPERTS | {
        "layer_types": ["hybrid", "hybrid"], "head_dim": 8, "num_experts_per_tok": 1, "router_hidden_size": 16,
    },
    "inkling_text": INKLING | {"mlp_layer_types": ["sparse", "sparse"]},
    "zamba2": ZAMBA | {"chunk_size": 16, "kv_channels": 8, "mamba_ngroups": 1, "n_mamba_heads": 8, "mamba_headdim": 8},
}  # fmt: skip
"""Families whose layers go on from a state by any number of tokens."""
ONE_BY_ONE: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8, "tie_word_embeddings": False},
    "falcon_mamba": {"state_size": 8, "tie_word_embeddings": False},
    "jamba": UNTIED | {
        "num_experts_per_tok": 2, "num_experts": 4, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1,
    },
    "zamba": ZAMBA | {"mamba_dt_rank": 4, "n_mamba_heads": 2},
}  # fmt: skip
"""Families whose layers go on by one."""


@cache
def recurrent(family: str, vocab: int = 64, logit_gain: float = 3.0) -> PreTrainedModel:
    return tiny_lm(family, vocab=vocab, window=512, logit_gain=logit_gain, **(FAMILIES | ONE_BY_ONE)[family])


class Scripted(dg.Drafter):
    """Chains of four of which as many are right as `turns` say, in turn; `text` is what the target says."""

    draws = ("fixed",)
    structure = dg.structures.Chain()

    def __init__(self, text: list[int], vocab: int = 64, turns: tuple[int, ...] = (2, 0, 4, 1, 3, 0, 4)) -> None:
        self.text, self.vocab, self.turns = text, vocab, turns

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        done, right = len(request.output), self.turns[len(request.rounds) % len(self.turns)]
        graph, node = dg.DraftGraph(), dg.ROOT
        for i, token in enumerate(self.text[done : done + min(4, limits.reach, limits.budget)]):
            node = graph.fix(node, token if i < right else (token + 1) % self.vocab)
        return dg.Draft(graph)
