"""Tiny random language models of many families, made from their configurations alone: nothing is downloaded."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

GROUPED = {"num_key_value_heads": 2}
UNTIED = {"tie_word_embeddings": False}  # a random tied model only repeats its last token
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "gpt2": UNTIED | {"n_positions": "window", "n_inner": 48},
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    "mistral": GROUPED | {"sliding_window": None},
    "gemma": UNTIED | {"num_key_value_heads": 1, "head_dim": 8, "hidden_activation": "gelu_pytorch_tanh"},
    "gemma2": UNTIED
    | {"num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "layer_types": ["full_attention"] * 2},
    "opt": UNTIED | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {},
    "phi": {},
    "falcon": UNTIED | {"alibi": False, "new_decoder_architecture": False},
    "gptj": {"rotary_dim": 4, "n_positions": "window"},
    "stablelm": {"num_key_value_heads": 4},
    "olmo2": {},
    "mixtral": GROUPED | {"num_local_experts": 2},
}
"""Families that run, with what their configurations need beside the common fields."""
REFUSED: dict[str, dict[str, Any]] = {
    "rwkv": {},
    "doge": GROUPED | {"keep_window_size": 8},
    "openai-gpt": UNTIED | {"n_positions": 128},
    "moshi": UNTIED | {"audio_vocab_size": 8, "ffn_dim": 96, "sliding_window": 8},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
}
"""Families (or options of them) that must be refused."""


def tiny_lm(
    family: str = "llama", *, seed: int = 0, vocab: int = 64, window: int = 128, layers: int = 2, gain: float = 1.5,
    logit_gain: float = 3.0, eos: int | None = None, **options: Any,
) -> PreTrainedModel:  # fmt: skip
    """A random causal LM whose next-token laws are peaked and depend on the whole prefix.

    gain  of the weight matrices; logit_gain  of the embeddings, about the standard deviation of the logits.
    """
    special = options or FAMILIES.get(family, {})
    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocab, "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": window, "bos_token_id": None, "eos_token_id": eos,
        "pad_token_id": None,
    }  # fmt: skip
    settings |= {name: window if value == "window" else value for name, value in special.items()}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).eval()
    reshape(model, gain, logit_gain)
    return model


@torch.no_grad()
def reshape(model: PreTrainedModel, gain: float, logit_gain: float) -> None:
    """Draw all matrices anew: fresh configurations give laws that are nearly uniform."""
    embeddings = {id(e.weight) for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e is not None}
    for weight in model.parameters():
        if weight.ndim >= 2:
            scale = logit_gain if id(weight) in embeddings else gain
            weight.normal_(0.0, scale / math.sqrt(weight.shape[-1]))


@torch.no_grad()
def perturbed(model: PreTrainedModel, noise: float = 0.1, seed: int = 1) -> PreTrainedModel:
    """A drafter that agrees with `model` in part: a copy with noise on every matrix."""
    other = copy.deepcopy(model)
    torch.manual_seed(seed)
    for weight in other.parameters():
        if weight.ndim >= 2:
            weight += torch.randn_like(weight) * weight.std() * noise
    return other


def byte_tokenizer(words: tuple[str, ...] = (), vocab: int = 256) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: one token per byte, so that characters span tokens; then `words`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = {token: number for number, token in enumerate([*letters, *words][:vocab])}
    core = Tokenizer(models.BPE(entries, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def plain(model: PreTrainedModel, prompt: list[int], tokens: int, **options: Any) -> list[int]:
    """What transformers itself generates greedily."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=0, **options
        )
    return out[0, len(prompt) :].tolist()
