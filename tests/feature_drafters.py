"""Tiny random feature drafters for tiny random targets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from draftgraph.backends.cross import CROSS, TOKENS
from draftgraph.backends.feature_files import packed
from draftgraph.backends.features import FeatureNet, FeatureShape, OwnNetwork, default_taps
from draftgraph.backends.own_networks import Form, make_network, reads_keys

FORMS: dict[str, Form] = {
    "EAGLE": ("linear", "one"), "FSPAD": ("token_gated", "two"), "GRIFFIN": ("token_mlp", "two"),
    "Chimera": ("trigram", "depth"), "GliDe": (CROSS, "one"),
}  # fmt: skip
"""Networks of papers by what they are made of."""
MIXED: dict[str, Form] = FORMS | {
    "tokens": (TOKENS, "one"), "linear, depth": ("linear", "depth"), "trigram, two": ("trigram", "two"),
}  # fmt: skip
"""Options that no paper has put together, beside them."""


def tiny_net(target: PreTrainedModel, seed: int = 1, share: float = 0.7) -> tuple[FeatureNet, torch.Tensor]:
    """A drafter that begins as the target's last layer, and the tokens of its head: a share of the vocabulary."""
    torch.manual_seed(seed)
    vocab = target.config.vocab_size
    tokens = torch.randperm(vocab)[: max(2, round(share * vocab))]
    shape = FeatureShape(target.config.hidden_size, default_taps(target.config.num_hidden_layers), len(tokens))
    net = FeatureNet(shape, target.config).eval().requires_grad_(False).to(target.dtype)
    net.start_from(target, tokens)
    return net, tokens


def tiny_form(
    form: Form, target: PreTrainedModel, seed: int = 1, share: float = 0.7
) -> tuple[OwnNetwork, torch.Tensor]:
    """A network of a paper with random weights, all of which matter, and the tokens of its head."""
    torch.manual_seed(seed)
    vocab, layers = target.config.vocab_size, target.config.num_hidden_layers
    tokens = torch.randperm(vocab)[: max(2, round(share * vocab))]
    taps = (f"keys:{layers - 1}", f"values:{layers - 1}") if reads_keys(form) else (f"hidden:{layers}",)
    net = make_network(form, FeatureShape(target.config.hidden_size, taps, len(tokens)), target.config)
    net = net.eval().requires_grad_(False).to(target.dtype)
    net.start_from(target, tokens)
    for weight in net.parameters():
        weight += (0.3 * float(weight.std()) + 0.05) * torch.randn_like(weight) if weight.ndim > 1 else 0.0
    net.share_head(target, tokens)
    return net, tokens


def write_drafter(folder: Path, target: PreTrainedModel, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with a drafter for the target."""
    return _written(folder, *tiny_net(target), target, dtype)


def write_form(form: Form, folder: Path, target: PreTrainedModel, share: float = 0.7) -> Path:
    """A folder with a network of a paper for the target."""
    return _written(folder, *tiny_form(form, target, share=share), target, torch.float32)


WRITERS = {name: partial(write_form, form) for name, form in FORMS.items()}
"""What writes a folder for a target, by name."""


def _written(folder: Path, net: OwnNetwork, tokens: torch.Tensor, target: PreTrainedModel, dtype: torch.dtype) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in packed(net, tokens, target, dtype).items():
        (folder / name).write_bytes(content)
    return folder
