"""Tiny random drafters that read the text alone, for tiny random targets: early exits and masked blocks."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from draftgraph.backends.exit_net import ExitNet, ExitShape
from draftgraph.backends.masked_net import MaskedNet, MaskedShape
from draftgraph.backends.text_files import packed_exit, packed_masked


def some_tokens(target: PreTrainedModel, share: float) -> torch.Tensor:
    """A share of the vocabulary, in no order."""
    vocab = target.config.get_text_config(decoder=True).vocab_size
    return torch.randperm(vocab)[: max(2, round(share * vocab))]


def tiny_exit(
    target: PreTrainedModel, layer: int = 2, share: float = 0.7, seed: int = 1
) -> tuple[ExitNet, torch.Tensor]:
    """An exit whose own block begins as the target's next layer, and the tokens of its head."""
    torch.manual_seed(seed)
    tokens = some_tokens(target, share)
    net = ExitNet(ExitShape(target.config.hidden_size, (), len(tokens), layer), target.config)
    net.start_from(target, tokens)
    net.block.to(target.dtype)
    return net.eval().requires_grad_(False), tokens


def tiny_masked(
    target: PreTrainedModel, slots: int = 4, passes: int = 1, share: float = 0.7, seed: int = 1
) -> tuple[MaskedNet, torch.Tensor]:
    """Masked blocks that begin as the target's first layers, and the tokens of their head."""
    torch.manual_seed(seed)
    tokens = some_tokens(target, share)
    net = MaskedNet(MaskedShape(target.config.hidden_size, (), len(tokens), slots, 2, passes), target.config)
    net.start_from(target, tokens)
    return net.eval().requires_grad_(False).to(target.dtype), tokens


def write_exit(folder: Path, target: PreTrainedModel, layer: int = 2, share: float = 0.7) -> Path:
    """A folder with an early exit for the target."""
    return written(folder, packed_exit(*tiny_exit(target, layer, share), target, torch.float32))


def write_masked(folder: Path, target: PreTrainedModel, slots: int = 4, passes: int = 1, share: float = 0.7) -> Path:
    """A folder with masked blocks for the target."""
    return written(folder, packed_masked(*tiny_masked(target, slots, passes, share), target, torch.float32))


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
