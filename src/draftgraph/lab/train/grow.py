"""The models: a small one, and deeper ones grown from it that start with the same function."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from draftgraph.lab.train.errors import PairTrainingError
from draftgraph.lab.train.recipe import MAX_POSITION, Shape


def model_config(shape: Shape, layers: int) -> LlamaConfig:
    """A small Llama whose only special token has id 0."""
    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=MAX_POSITION,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def grow(model: LlamaForCausalLM, shape: Shape, layers: int) -> LlamaForCausalLM:
    """A deeper model that computes the same function.

    The trained layers are copied and new ones appended. The projections a new layer adds to the residual stream start
    at zero, so it adds nothing until it is trained; its other weights are random, because copies of one layer would all
    receive the same first gradients.
    """
    have = model.config.num_hidden_layers
    if layers < have:
        raise PairTrainingError(
            f"A model of {have} layers was to be grown to {layers}. Growing only adds layers: ask for {have} or more."
        )
    deeper = LlamaForCausalLM(model_config(shape, layers))
    deeper.load_state_dict(model.state_dict(), strict=False)
    for layer in deeper.model.layers[have:]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return deeper
