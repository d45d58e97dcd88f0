"""What a CUDA graph does, on any device: operations are recorded once, and replayed over the same memory without Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from draftgraph.backends.cuda_graphs import CudaGraphModel, PutOut, Recorded
from fake_gpu import READS


class _Unread(TorchFunctionMode):
    """Raises RuntimeError where the host would wait for a result."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in READS:
            raise RuntimeError(f"operation not permitted while recording: {func.__name__}")
        return func(*args, **(kwargs or {}))


class Recording(TorchDispatchMode):
    """Records every operation that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self, out: tuple[torch.Tensor, ...]) -> None:
        """Run everything again, and write what became of `out` into it."""
        anew: dict[int, torch.Tensor] = {}

        def current(value: Any) -> Any:
            return anew.get(id(value), value) if isinstance(value, torch.Tensor) else value

        for func, args, kwargs, before in self.calls:
            after = func(*tree_map(current, args), **tree_map(current, kwargs))
            anew.update((id(old), new) for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True))
        for tensor in out:
            tensor.copy_(current(tensor))


class RecordedModel(CudaGraphModel):
    """`CudaGraphModel` as on a GPU. recordings  how many passes were recorded."""

    records = True
    recordings = 0

    def _captured(self, run: Callable[[], PutOut]) -> Recorded:
        self.recordings += 1
        with Recording() as recording, _Unread():
            out = run()
        return Recorded(out, lambda: recording.replay(out))
