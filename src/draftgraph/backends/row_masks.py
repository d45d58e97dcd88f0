"""Layers that hold a causal mask of their own, as a buffer over the order of the rows: they are shown the mask of the draft.

Such a layer takes a piece of its buffer, bool[1, 1, rows, cells], as if every row stood right behind the last one. In a pool of
cells it does not. The model is left as it is: only the question for the piece is answered otherwise, in the thread of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from draftgraph.backends.layer_kinds import WINDOWED, LayerKind

Holder = tuple[torch.nn.Module, str, LayerKind]
"""A layer, the name of its buffer, and what the buffer lets it read."""


def mask_holders(model: torch.nn.Module) -> list[Holder]:
    """The layers of a model that hold a causal mask; a row of it tells the window."""
    found = []
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if _is_causal(buffer):
                span = int(buffer[0, 0, -1].sum())
                found.append((module, name, LayerKind(WINDOWED, span) if span < len(buffer[0, 0]) else LayerKind()))
    return found


def _is_causal(buffer: torch.Tensor) -> bool:
    """Whether a buffer is bool[1, 1, n, n], True on its diagonal and False above."""
    shape = buffer.shape
    if buffer.dtype != torch.bool or buffer.ndim != 4 or shape[:2] != (1, 1) or shape[2] != shape[3] or shape[2] < 2:
        return False
    return bool(buffer[0, 0].diagonal().all()) and not bool(buffer[0, 0].triu(1).any())


class Shown(TorchFunctionMode):
    """While a model runs inside, pieces of its layers' buffers are `visible`, bool[1, 1, rows, cells], one for every holder."""

    def __init__(self, holders: Sequence[Holder], visible: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._holders = holders
        self._pieces = {
            id(getattr(module, name)): piece for (module, name, _), piece in zip(holders, visible, strict=True)
        }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__getitem__ and id(args[0]) in self._pieces:
            return self._pieces[id(args[0])]
        return func(*args, **(kwargs or {}))
