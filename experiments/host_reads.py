"""How often the host waits for the device: by line of the source, in the runs inside.

On a GPU torch itself tells every operation that waits. Elsewhere the calls are counted that would wait on a GPU.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

WAITING = frozenset({
    "item", "tolist", "cpu", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__", "nonzero", "is_nonzero",
})  # fmt: skip
"""Names of tensor functions that read on the host."""
MADE = frozenset({"tensor", "as_tensor"})
"""Functions that bring numbers from the host over; on a GPU they wait until what runs there is done."""
SOURCE = Path(__file__).resolve().parents[1]


@contextmanager
def counted(device: torch.device) -> Iterator[Counter[str]]:
    """Count the times that the host waits inside, by place ("sampling/warp.py:87")."""
    found: Counter[str] = Counter()
    if device.type != "cuda":
        with _Counting(found):
            yield found
        return
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *args, **kw: found.update(
            [_place()] if "synchroniz" in str(message) else []
        )
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)


class _Counting(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in WAITING or (name in MADE and kwargs.get("device") is not None):
            self.found[_place()] += 1
        return func(*args, **kwargs)


def _place() -> str:
    """The innermost line of this repository that runs now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(SOURCE) and file != Path(__file__) and ".venv" not in file.parts:
            return f"{'/'.join(file.parts[-2:])}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"
