"""A GPU to look at code with, where there is none: tensors are marked as lying on it, and mixing them up is an error, as there.

What a function makes of marked tensors is marked; so is what it makes for a device that is named. A marked tensor cannot be
read as an array, and not be mixed with others, unless those have no dimensions, or are indices, or are copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

READS = frozenset({
    "item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero", "is_nonzero",
})  # fmt: skip
"""Functions whose result the host waits for."""
GPU = torch.device("cpu", 0)
"""What marked tensors call their device; it is another one than the host's, which has no number."""
IMPOSSIBLE = frozenset({"numpy", "__array__"})
MIXED = frozenset({"__getitem__", "__setitem__", "copy_", "to", "index_put_"})
"""Functions that take tensors of the host beside those of the device."""


class FakeGpu(TorchFunctionMode):
    """reads  how often the host would wait inside, by name of the function; writes  how often numbers are brought over."""

    def __init__(self, *models: torch.nn.Module) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.writes = 0
        for model in models:
            for tensor in (*model.parameters(), *model.buffers()):
                _mark(tensor)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        marked = [tensor for tensor in tensors if is_marked(tensor)]
        if marked and name in IMPOSSIBLE:
            raise TypeError(f"{name}: can't convert a tensor of the GPU to numpy")
        if marked and getattr(func, "__self__", None) is torch.Tensor.device:
            return GPU
        if marked and getattr(func, "__self__", None) is torch.Tensor.is_cpu:
            return False
        strangers = [tensor for tensor in tensors if tensor.ndim and not is_marked(tensor)]
        if marked and strangers and name not in MIXED:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        moved = not marked and GPU in (kwargs.get("device"), *(args[1:] if name == "to" else ()))
        if marked and name in READS:
            self.reads[name] += 1
        written = moved and name in ("tensor", "to", "as_tensor")
        out = func(*args, **kwargs)
        self.writes += written and bool(torch.numel(out))
        if name != "cpu" and (marked or moved):
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor):
                    _mark(leaf)
        return out


def is_marked(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "on_fake_gpu", False)


def _mark(tensor: torch.Tensor) -> None:
    tensor.on_fake_gpu = True  # type: ignore[attr-defined]
