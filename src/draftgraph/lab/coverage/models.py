"""Small random models that say different things: a target whose text varies, and drafters that agree with it in part."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from draftgraph.lab.coverage.peculiar import NOT_ALONE
from draftgraph.lab.coverage.small import VOCAB, WINDOW, small_config

GAINS = ((1.5, 3.0), (2.5, 3.0), (1.0, 1.0), (3.0, 1.0), (4.0, 0.5), (1.5, 0.3))
"""Scales of matrices, and of embeddings and head, that are tried one after the other until a text varies."""
ENOUGH = 8
"""Different tokens of a text that varies."""
_STATES = ("A_log", "dt_proj", "conv1d", "time_decay", "time_mix")
"""Weights of recurrent layers that keep the values of their class: others let states explode."""


class UnusableError(Exception):
    """transformers itself does not run a model type: it is not built, or its text cannot be generated."""


@dataclass(frozen=True)
class Reference:
    """What `generate` of transformers says after a prompt.

    text  token ids, greedy. rows  f[len(text), V] the logits that it chose from.
    """

    text: list[int]
    rows: torch.Tensor


def target(name: str, prompt: list[int], tokens: int) -> PreTrainedModel:
    """A model of a type that generates different tokens. Raises UnusableError if transformers does not run it."""
    model = _built(name)
    best: tuple[int, int] | None = None
    for seed, gains in enumerate(GAINS):
        reshape(model, *gains, seed)
        try:
            found = reference(model, prompt, tokens)
        except Exception as error:
            raise UnusableError(f"its generate fails: {_told(error)}") from error
        kinds = len(set(found.text)) if bool(torch.isfinite(found.rows).any(dim=1).all()) else 0
        if kinds and (best is None or kinds > best[0]):
            best = kinds, seed
        if kinds >= ENOUGH:
            return model
    if best is None:
        raise UnusableError("its logits are not finite")
    reshape(model, *GAINS[best[1]], best[1])
    return model


def _built(name: str) -> PreTrainedModel:
    if name in NOT_ALONE:
        raise UnusableError(NOT_ALONE[name])
    torch.manual_seed(0)
    try:
        model = AutoModelForCausalLM.from_config(small_config(name), dtype=torch.float32).eval()
        if hasattr(model, "set_default_language"):
            model.set_default_language(model.config.default_language)
    except Exception as error:
        raise UnusableError(f"it is not built: {_told(error)}") from error
    assert isinstance(model, PreTrainedModel)
    model.generation_config = GenerationConfig()  # that of the class names tokens of its real vocabulary
    return model


def _told(error: Exception) -> str:
    """An error in one sentence."""
    return f"{type(error).__name__}: {' '.join(str(error).split()).partition('. ')[0]}"


@torch.no_grad()
def reshape(model: PreTrainedModel, gain: float, ends: float, seed: int) -> None:
    """Draw the matrices anew. gain  their scale. ends  that of the embeddings and the head."""
    torch.manual_seed(seed)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    outer = {id(layer.weight) for layer in layers if layer is not None and hasattr(layer, "weight")}
    for name, weight in model.named_parameters():
        if weight.ndim >= 2 and not any(part in name for part in _STATES):
            weight.normal_(0.0, (ends if id(weight) in outer else gain) / math.sqrt(weight.shape[-1]))
        else:
            weight.nan_to_num_(0.0)


@torch.no_grad()
def near(model: PreTrainedModel, noise: float = 0.05) -> PreTrainedModel:
    """A drafter that often says the same: a copy with noise on every matrix, relative to its scale."""
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    for weight in other.parameters():
        if weight.ndim >= 2 and weight.is_floating_point():
            weight.add_(torch.randn_like(weight) * weight.std() * noise)
    return other


def stranger() -> PreTrainedModel:
    """A drafter of another architecture than most targets, which seldom says the same."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=WINDOW, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    reshape(model, 1.5, 3.0, 5)
    return model


@torch.inference_mode()
def reference(model: PreTrainedModel, prompt: list[int], tokens: int) -> Reference:
    """The text of transformers' own `generate`."""
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1, max_new_tokens=tokens,
        min_new_tokens=tokens, pad_token_id=0, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    return Reference(out.sequences[0, len(prompt) :].tolist(), torch.cat(out.logits).float())
