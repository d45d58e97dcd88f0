"""A small configuration of any model type: the one that its class makes by default, with every size cut down.

Names tell what a field is the size of. Lists with an entry per layer keep the layers that show every kind there is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from draftgraph.lab.coverage.peculiar import BARE, DROPPED, PECULIAR, VARIANTS

VOCAB, WINDOW, SPAN = 97, 512, 32
"""Tokens of the vocabulary, of the context window, and of windows and chunks of layers."""
LAYERS = re.compile(r"(num_|n_)?(hidden_|encoder_|decoder_)?layers?")
SIZES = (
    (VOCAB, r"(unpadded_)?vocab_size(_per_layer_input)?"),
    (WINDOW, r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length|keep_window_size"),
    (SPAN, r"(sliding_)?window_size|sliding_window(_size)?|local_attention(_window_len)?|attention_(chunk|window)_size"),
    (SPAN, r"index_topk"),
    (32, r"(hidden|embedding|attention_hidden)_size|d_model|n_embd|(hidden|model|emb|embedding|word_embed_proj)_dim"),
    (48, r"(\w+_)?intermediate_size(_mlp)?|(\w+_)?ffn_dim|ffn_hidden_size|dim_ff|dff|n_inner"),
    (4, r"(\w+_)?(num|n)_(attention_)?heads?|(encoder|decoder)_attention_heads|n_head"),
    (8, r"(\w+_)?head_dim|kv_channels|dim_head|\w+_head_size|query_pre_attn_scalar|hidden_size_per_layer_input"),
    (4, r"(moe_)?num(_local)?_experts|n_routed_experts|rotary_dim|linear_num_value_heads|indexer_n_heads"),
    (2, r"num_experts_per_(tok|token)|moe_(topk|k)|top_k_experts|linear_num_key_heads|index_n_heads|type_vocab_size"),
    (1, r"n_group|topk_group|num_expert_group|(mamba_)?n_groups|first_k_dense_replace|num_(dense|kv_shared)_layers"),
    (8, r"mamba_d_state|mamba_n_heads|mamba_num_heads|mamba_d_head|ssm_state_size|state_size"),
    (16, r"moe_\w*intermediate_size|shared_experts?_intermediate_size|expert_ffn_hidden_size|\w+_lora_rank|qk_head_dim"),
    (64, r"mamba_d_ssm"),
    (16, r"(mamba_)?chunk_size"),
    (0, r"num_nextn_predict_layers|num_mtp_layers"),
)  # fmt: skip
"""Sizes by the whole name of a field. The last one that fits counts."""
KEY_HEADS = re.compile(r"(\w+_)?num_(global_)?(key_value|kv)_heads")
TOKEN = re.compile(r"\w+_token_(id|index|ids)")
_SIZES = [(size, re.compile(names)) for size, names in SIZES]


def named_types() -> dict[str, str]:
    """Every model type that AutoModelForCausalLM knows, and the variants, with the class of each."""
    classes = {
        name: made if isinstance(made, str) else made[0] for name, made in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
    }
    return classes | {name: classes[kind] for name, (kind, _) in VARIANTS.items() if kind in classes}


def small_config(name: str) -> PretrainedConfig:
    """A configuration of a model type, or of one of VARIANTS."""
    kind, more = VARIANTS.get(name, (name, {}))
    options = {**PECULIAR.get(kind, {}), **more}
    made = CONFIG_MAPPING[kind]
    if kind in BARE:
        return made(**options)
    fields = _small(made())
    for path, value in options.items():
        *outer, last = path.split(".")
        place = fields
        for each in outer:
            place = place.setdefault(each, {})
        if value is DROPPED:
            place.pop(last, None)
        else:
            place[last] = value
    return made(**fields)


def _small(config: PretrainedConfig) -> dict[str, Any]:
    """Arguments that make a small configuration of the same class; fields that are no sizes are left to the class."""
    state = dict(vars(config))
    layers = next((value for name, value in state.items() if LAYERS.fullmatch(name) and isinstance(value, int)), 0)
    kept = _kept_layers(state, layers)
    found: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, PretrainedConfig):
            found[name] = {"model_type": value.model_type, **_small(value)}
        elif LAYERS.fullmatch(name) and isinstance(value, int):
            found[name] = len(kept)
        elif isinstance(value, (list, tuple)) and len(value) == layers > 0:
            found[name] = [_size(name, value[i], state) for i in kept]
        elif value is not None and not isinstance(value, (bool, str, Mapping)):
            size = _size(name, value, state)
            if size is not value:
                found[name] = size
    if hasattr(config, "is_decoder") and not config.is_encoder_decoder:
        found["is_decoder"] = True
    if getattr(config, "tie_word_embeddings", False):
        found["tie_word_embeddings"] = False
    return found


def _kept_layers(state: Mapping[str, Any], layers: int) -> list[int]:
    """Layers that show every kind once, in their order, and two at least."""
    kinds: Sequence[Any] = state.get("layer_types") or state.get("layers_block_type") or ()
    first = {kind: number for number, kind in reversed(list(enumerate(kinds)))} if len(kinds) == layers else {}
    rest = [number for number in range(max(2, layers)) if number not in first.values()]
    return sorted([*first.values(), *rest[: max(0, 2 - len(first))]])


def _size(name: str, value: Any, state: Mapping[str, Any]) -> Any:
    """The small value of a field; the value itself where it is no size."""
    if isinstance(value, (list, tuple)):
        return [VOCAB - 2] if TOKEN.fullmatch(name) else value
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    if TOKEN.fullmatch(name):
        return value if 0 <= value < VOCAB else VOCAB - 1 - len(name) % 6
    if KEY_HEADS.fullmatch(name):
        return 4 if value == (state.get("num_attention_heads") or state.get("n_head")) else 2
    sizes = [size for size, names in _SIZES if names.fullmatch(name)]
    return sizes[-1] if sizes else value
