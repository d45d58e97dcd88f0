"""Tiny random feature drafters for tiny random targets."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from draftgraph.backends.feature_files import packed
from draftgraph.backends.features import FeatureNet, FeatureShape, default_taps


def tiny_net(target: PreTrainedModel, seed: int = 1, share: float = 0.7) -> tuple[FeatureNet, torch.Tensor]:
    """A drafter that begins as the target's last layer, and the tokens of its head: a share of the vocabulary."""
    torch.manual_seed(seed)
    vocab = target.config.vocab_size
    tokens = torch.randperm(vocab)[: max(2, round(share * vocab))]
    shape = FeatureShape(target.config.hidden_size, default_taps(target.config.num_hidden_layers), len(tokens))
    net = FeatureNet(shape, target.config).eval().requires_grad_(False).to(target.dtype)
    net.start_from(target, tokens)
    return net, tokens


def write_drafter(folder: Path, target: PreTrainedModel, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with a drafter for the target."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in packed(*tiny_net(target), target, dtype).items():
        (folder / name).write_bytes(content)
    return folder
