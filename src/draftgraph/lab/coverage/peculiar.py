"""What some model types need beside small sizes, and options that real checkpoints of others use."""

from __future__ import annotations

from typing import Any

DROPPED = object()
"""An option that is left to the class, whatever its size by default is."""
_WINDOW, _FULL, _LINEAR = "sliding_attention", "full_attention", "linear_attention"


def _inside(part: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a configuration inside another one."""
    return {f"{part}.{name}": value for name, value in options.items()}


_SHARING = {
    "num_hidden_layers": 4, "layer_types": [_WINDOW, _FULL, _WINDOW, _FULL], "num_kv_shared_layers": 2,
}  # fmt: skip
_GEMMA4 = _SHARING | {"per_layer_config": DROPPED, "global_head_dim": 16}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2, "num_hidden_layers": 3}
_ZAMBA = {
    "num_hidden_layers": 3, "layers_block_type": [_LINEAR, "hybrid", _LINEAR], "attention_head_dim": 16,
    "attention_hidden_size": 64, "mamba_d_state": 8,
}  # fmt: skip
_QWEN4 = {
    "indexer_kv_heads": 1, "indexer_n_heads": 2, "indexer_head_dim": 8, "indexer_budget": 8, "indexer_compress_ratio": 2,
    "hc_lowrank": 8, "ngram_vocab_size_base": 50,
}  # fmt: skip
PECULIAR: dict[str, dict[str, Any]] = {
    "gemma3n_text": _SHARING | {"activation_sparsity_pattern": [0.0] * 4, "intermediate_size": 48, "laurel_rank": 8},
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "gemma4": _inside("text_config", _GEMMA4),
    "gemma4_unified": _inside("text_config", _GEMMA4),
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "lfm2": {"num_hidden_layers": 4, "layer_types": ["conv", _FULL] * 2, "full_attn_idxs": DROPPED},
    "bamba": _MAMBA | {"attn_layer_indices": [1]},
    "granitemoehybrid": _MAMBA | {"layer_types": [_LINEAR, _FULL, _LINEAR]},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "zamba": _ZAMBA | {"mamba_dt_rank": 4, "n_mamba_heads": 2},
    "zamba2": _ZAMBA | {"mamba_ngroups": 1, "n_mamba_heads": 8, "mamba_headdim": 8},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 4},
    "reformer": {
        "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 32], "attn_layers": ["local", "lsh"], "is_decoder": True,
        "attention_head_size": 8, "num_buckets": 4, "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8,
        "feed_forward_size": 48,
    },
    "qwen4_exp_text": _QWEN4,
    "qwen4_exp": _inside("text_config", _QWEN4),
    "xlstm": {
        "vocab_size": 97, "embedding_dim": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 4, "chunk_size": 16,
        "qk_dim_factor": 1.0, "tie_word_embeddings": False,
    },
    "xmod": {"default_language": "en_XX"},
    "dbrx": {
        "d_model": 32, "n_heads": 4, "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48},
    },
    "cohere_compass_text": {
        "layer_types": [_WINDOW, _FULL],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]} for kind in (_WINDOW, _FULL)
        },
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots3_note": {
        "vision_config.adapter_in_dim": 32, "vision_config.adapter_out_dim": 32, "audio_config.adapter_input_size": 32,
        "audio_config.adapter_out_dim": 32,
    },
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", _FULL] * 2},
    "roc_bert": {"shape_vocab_size": 97, "pronunciation_vocab_size": 97, "shape_embed_dim": 32, "pronunciation_embed_dim": 32},
}  # fmt: skip
BARE = ("xlstm",)
"""Types whose options stand alone, since sizes that fit their names do not fit each other."""

_ASSISTANT = "it drafts for a target of its family and reads the keys and values of that; it does not run alone"
NOT_ALONE = {"gemma4_assistant": _ASSISTANT, "gemma4_unified_assistant": _ASSISTANT}
"""Types that are no language models by themselves, and why."""
_LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 8.0,
    "original_max_position_embeddings": 310,
}  # fmt: skip
_MIXED = {"layer_types": [_FULL, _WINDOW], "max_window_layers": 1, "use_sliding_window": True, "sliding_window": 32}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "qwen2, windows": ("qwen2", _MIXED),
    "qwen3, windows": ("qwen3", _MIXED),
    "phi3, window": ("phi3", {"sliding_window": 32}),
    "phi3, longrope": ("phi3", {"original_max_position_embeddings": 310, "rope_parameters": _LONG}),
    "mixtral, window": ("mixtral", {"sliding_window": 32}),
    "falcon, ALiBi": ("falcon", {"alibi": True}),
    "gemma2, no window": ("gemma2", {"layer_types": [_FULL, _FULL]}),
    "granitemoehybrid, attention only": ("granitemoehybrid", {"layer_types": [_FULL] * 3}),
    "doge, fewer tokens than the context": ("doge", {"keep_window_size": 32}),
    "deepseek_v32, texts within the index": ("deepseek_v32", {"index_topk": 512}),
    "glm_moe_dsa, texts within the index": ("glm_moe_dsa", {"index_topk": 512}),
    "llama, dynamic rope": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}),
}
"""Options that checkpoints of a type use, by a name of their own: the type, and the options."""
