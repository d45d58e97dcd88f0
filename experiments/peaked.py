"""A random target and a random drafter whose agreement is a dial, with the forwards of real models.

The residual stream of a peaked model is its embedding of the last token, and what its layers add is small. Its head points from
every token x to a first and a second successor, so its law is

    p(y | x) ∝ exp(strength) at first(x), exp(strength - GAP) at second(x), and about 1 elsewhere.

The drafter has another width, other weights, and the same first successor for a share of all tokens: the agreement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

PEAK = 0.8
"""Mass of the likeliest token, about."""
GAP = 2.0
"""By so much the second successor's logit is below the first one's."""
NOISE = 0.3
"""Length of all that the layers add, relative to the embedding."""
CHUNK = 16384
"""Rows of the head that are written at once."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    window: int = 32768

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=self.window,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )


@dataclass(frozen=True)
class Language:
    """first, second  i64[V] the successors of every token."""

    first: torch.Tensor
    second: torch.Tensor

    @classmethod
    def random(cls, vocab: int, device: torch.device, seed: int = 0) -> Language:
        draw = torch.Generator(device).manual_seed(seed)
        first, second = (torch.randperm(vocab, generator=draw, device=device) for _ in range(2))
        return cls(first, second)

    def misheard(self, agreement: float, seed: int = 1) -> Language:
        """With the same first successor for that share of the tokens; for the others it comes second."""
        vocab, device = len(self.first), self.first.device
        draw = torch.Generator(device).manual_seed(seed)
        agrees = torch.rand(vocab, generator=draw, device=device) < agreement
        other = torch.randperm(vocab, generator=draw, device=device)
        return Language(torch.where(agrees, self.first, other), torch.where(agrees, self.second, self.first))


@torch.no_grad()
def random_model(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int = 0) -> LlamaForCausalLM:
    """A model made on its device, which speaks no language yet."""
    torch.manual_seed(seed)
    with _default(dtype), torch.device(device):
        model = LlamaForCausalLM(shape.config()).eval().requires_grad_(False)
    model.get_input_embeddings().weight.normal_()
    added = [
        weight for name, weight in model.named_parameters() if name.endswith(("o_proj.weight", "down_proj.weight"))
    ]
    for _ in range(3):  # what layers add grows a little otherwise than linearly
        factor = NOISE / max(_noise(model), NOISE / 100)
        for weight in added:
            weight.mul_(factor)
    return model


def _noise(model: LlamaForCausalLM) -> float:
    """Length of what the layers add to the embedding, relative to it."""
    embedding = model.get_input_embeddings().weight
    ids = torch.arange(64, device=embedding.device)[None]
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state.float()
    cosine = torch.nn.functional.cosine_similarity(hidden, embedding[ids].float(), dim=-1).mean()
    return math.sqrt(max(0.0, 1.0 / max(float(cosine), 1e-3) ** 2 - 1.0))


@torch.no_grad()
def teach(model: LlamaForCausalLM, language: Language, gap: float = GAP) -> None:
    """Write a language into the head, in place: what holds the model's weights sees it at once. gap  0: near-ties everywhere."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    vocab, hidden = embedding.shape
    strength = math.log(vocab) + math.log(PEAK / (1.0 - PEAK)) + NOISE**2 * math.log(vocab)
    head.zero_()
    for start in range(0, vocab, CHUNK):
        rows = embedding[start : start + CHUNK]
        head.index_add_(0, language.first[start : start + CHUNK], rows * (strength / hidden))
        head.index_add_(0, language.second[start : start + CHUNK], rows * ((strength - gap) / hidden))


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
