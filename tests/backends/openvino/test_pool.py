"""Cells are moved as a whole, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from draftgraph.backends.openvino.pool import BlockPool, Shape
from draftgraph.backends.openvino.text import PagedText


class Scarce(np.ndarray):  # type: ignore[type-arg]
    """Memory of which nothing can be copied."""

    def __getitem__(self, place: Any) -> Any:
        raise MemoryError


def test_a_move_that_fails_may_be_repeated() -> None:
    """Keys and values of different width lie in memory of their own."""
    pool = BlockPool([Shape("keys", 1, 4), Shape("values", 1, 8)], np.dtype(np.float32), lambda name, memory: None)
    text = PagedText()
    pool.allot([(text, 8)])
    block = text.blocks[0]
    for memory in pool._memory:
        memory[:, block, :, :8] = np.arange(8.0)[:, None]
    whole, pool._memory[1] = pool._memory[1], pool._memory[1].view(Scarce)
    with pytest.raises(MemoryError):
        pool.move(text, [5, 7], 4)
    pool._memory[1] = whole
    pool.move(text, [5, 7], 4)
    for memory in pool._memory:
        assert memory[0, block, 0, :8, 0].tolist() == [0, 1, 2, 3, 5, 7, 6, 7]
