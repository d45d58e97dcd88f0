"""Rotary positions from tables in float32.

As traced, a graph in bf16 computes the angles in bf16 too, and is wrong after position 256. Tables are what transformers
computes, whatever the precision of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class _Tables(torch.nn.Module):
    """What a rotary embedding gives, looked up by position."""

    def __init__(self, rotary: torch.nn.Module, positions: int) -> None:
        super().__init__()
        where = torch.arange(positions)[None]
        cos, sin = rotary(torch.zeros(1, 1, 1), where)
        self.register_buffer("cos", cos[0].float().contiguous(), persistent=False)
        self.register_buffer("sin", sin[0].float().contiguous(), persistent=False)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cos[position_ids], self.sin[position_ids]


@contextmanager
def exact_rotary(model: torch.nn.Module, positions: int) -> Iterator[None]:
    """While a model is traced, every rotary embedding of it looks its results up; afterwards it is as it was."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if hasattr(child, "inv_freq") and hasattr(child, "rope_init_fn" if hasattr(child, "rope_init_fn") else "inv_freq")
    ]
    try:
        for parent, name, child in found:
            with torch.no_grad():
                setattr(parent, name, _Tables(child, positions))
        yield
    finally:
        for parent, name, child in found:
            setattr(parent, name, child)
