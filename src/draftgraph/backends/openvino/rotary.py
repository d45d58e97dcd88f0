"""Rotary positions from tables in float32.

As traced, a graph in bf16 computes the angles in bf16 too, and is wrong after position 256. Tables are what transformers
computes, whatever the precision of the graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Tables(torch.nn.Module):
    """What a rotary embedding gives, looked up by position; by kind of layer, where it differs between them."""

    def __init__(self, rotary: torch.nn.Module, positions: int, kinds: Iterable[str | None]) -> None:
        super().__init__()
        every = torch.arange(positions)[None]
        for kind in kinds:
            named = {} if kind is None else {"layer_type": kind}
            cos, sin = rotary(torch.zeros(1, 1, 1), every, **named)
            self.register_buffer(f"{kind}_cos", cos[0].float().contiguous(), persistent=False)
            self.register_buffer(f"{kind}_sin", sin[0].float().contiguous(), persistent=False)

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return getattr(self, f"{layer_type}_cos")[position_ids], getattr(self, f"{layer_type}_sin")[position_ids]


@contextmanager
def exact_rotary(model: PreTrainedModel, positions: int) -> Iterator[None]:
    """While a model is traced, every rotary embedding of it looks its results up; afterwards it is as it was."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if any(buffer.endswith("inv_freq") for buffer, _ in child.named_buffers(recurse=False))
    ]
    layers = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ()
    try:
        for parent, name, child in found:
            by_layer = "layer_type" in inspect.signature(child.forward).parameters
            setattr(parent, name, _Tables(child, positions, sorted(set(layers)) if by_layer else (None,)))
        yield
    finally:
        for parent, name, child in found:
            setattr(parent, name, child)
