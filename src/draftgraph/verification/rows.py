"""Arithmetic over whole rows of a vocabulary: in NumPy where rows are narrow and on the CPU, else in torch, where they are.

NumPy's operations start in a third of torch's time, and a round has a dozen of them between two passes of models. On wide rows
torch is the faster one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Rows = torch.Tensor | npt.NDArray[np.floating]
"""Rows f[n, V], or one of them."""
NARROW = 1 << 16
"""Entries of a row up to which NumPy is the faster one."""
NARROW_SUM = 1 << 12
"""The same for running sums, in which every entry waits for the one before it."""
_NUMPY = (torch.float32, torch.float64)
"""Kinds of numbers that NumPy reads."""


def readable(rows: torch.Tensor) -> bool:
    """Whether NumPy reads rows where they are."""
    return rows.is_cpu and rows.dtype in _NUMPY


def held(p: torch.Tensor, laws: torch.Tensor | None) -> tuple[Rows, Rows | None]:
    """Rows f[n, V] of target and draft as what computes with both of them faster. Nothing is copied."""
    if not readable(p) or p.shape[1] > NARROW or not (laws is None or readable(laws)):
        return p, laws
    return as_array(p), None if laws is None else as_array(laws)


def as_array(rows: torch.Tensor) -> npt.NDArray[np.floating]:
    """The same rows for NumPy, which has to be able to read them. Nothing is copied."""
    return rows.detach().numpy() if rows.requires_grad else rows.numpy()


def as_tensor(rows: Rows) -> torch.Tensor:
    """The same rows as a tensor. Nothing is copied."""
    return torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows


def picked(rows: Rows, numbers: Sequence[int]) -> Rows:
    """Rows f[n, V] of some numbers; of numbers in a row without a copy."""
    first, count = numbers[0], len(numbers)
    in_order = count == 1 or list(numbers) == [*range(first, first + count)]
    return rows[first : first + count] if in_order else rows[list(numbers)]


def copied(row: Rows) -> Rows:
    """A copy of one row f[V]."""
    return row.copy() if isinstance(row, np.ndarray) else row.clone()


def scaled(rows: Rows, shares: Sequence[float]) -> Rows:
    """A copy of rows f[n, V], each times its share."""
    if isinstance(rows, np.ndarray):
        return rows * np.array(shares, dtype=rows.dtype)[:, None]
    return rows * torch.tensor(shares, dtype=rows.dtype, device=rows.device)[:, None]


def less(rows: Rows, others: Rows, shares: Sequence[float]) -> Rows:
    """Rows f[n, V] less other rows, each times its share, in place."""
    if isinstance(rows, torch.Tensor) and isinstance(others, torch.Tensor):
        column = torch.tensor(shares, dtype=rows.dtype, device=rows.device)[:, None]
        return rows.addcmul_(others.to(rows.dtype), column, value=-1.0)  # without a copy of the other rows
    rows -= scaled(others, shares)
    return rows


def positive(rows: Rows) -> Rows:
    """Rows whose negative entries are made 0, in place."""
    return np.maximum(rows, 0.0, out=rows) if isinstance(rows, np.ndarray) else rows.clamp_(min=0.0)


def running_sums(row: torch.Tensor) -> npt.NDArray[np.float64]:
    """Of one row f[V] on the CPU, in f64, entry by entry: both ways give the same bits."""
    if row.shape[0] <= NARROW_SUM and readable(row):
        found: npt.NDArray[np.float64] = np.add.accumulate(as_array(row), dtype=np.float64)
    else:
        found = row.detach().cumsum(dim=0, dtype=torch.float64).numpy()
    return found


def sums(rows: Rows) -> list[float]:
    """Of every row f[n, V], in f64."""
    if isinstance(rows, np.ndarray):
        found: list[float] = np.add.reduce(rows, axis=1, dtype=np.float64).tolist()
    else:
        found = rows.sum(dim=1, dtype=torch.float64).tolist()
    return found


def together(entries: Sequence[Any]) -> list[float]:
    """Entries of rows as numbers, read together where every reading would wait for the device."""
    if isinstance(entries[0], torch.Tensor):
        found: list[float] = torch.stack([*entries]).tolist()
        return found
    return [float(entry) for entry in entries]
