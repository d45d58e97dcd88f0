"""What tells one model's costs from another's."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

SAMPLED_WEIGHTS = 8


def fingerprint(model: torch.nn.Module) -> str:
    """A model's shape, type and (a few of) its weights, as a hash: another drafter of the same shape is another pair."""
    known = hashlib.sha256(model.__class__.__name__.encode())
    for name, weight in model.named_parameters():
        few = _here(weight.detach()).reshape(-1)[:SAMPLED_WEIGHTS].float().cpu()
        known.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + few.numpy().tobytes())
    return known.hexdigest()


def _here(weight: torch.Tensor) -> torch.Tensor:
    """What this process holds of a weight; to put shards together, all ranks would have to take part."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


PROBE = "def f(x): return x + 1  # é 2026\nThe cat's 3 mats, HOWEVER…"
"""A text that tokenizers of the same vocabulary and other rules split in another way."""


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A tokenizer's entries, and how it reads a text, as a hash."""
    entries = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    read = list(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
    return hashlib.sha256(repr((entries, read)).encode("utf-8", "backslashreplace")).hexdigest()
