"""What a pass reads is what it was given, whatever struck the pass before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("openvino")

from converted import converted
from draftgraph.backends.base import Feed
from draftgraph.backends.openvino.compiled import Compiled

FIRST, SECOND, LONG = [5, 9, 5, 9], [7, 3, 9, 1], [*range(7, 57)]


def rows(tokens: list[int]) -> torch.Tensor:
    model = converted()
    text = model.open(len(tokens))
    try:
        return model.forward([Feed(text, tokens)])[0].logits
    finally:
        model.close(text)


class Struck:
    """Memory of an input at which an interrupt strikes, before or after it is written."""

    def __init__(self, memory: np.ndarray, written: bool) -> None:
        self.memory, self.written, self.size = memory, written, memory.size

    def __setitem__(self, place: Any, values: Any) -> None:
        if self.written:
            self.memory[place] = values
        raise KeyboardInterrupt


class StruckRequest:
    """A request of OpenVINO at which an interrupt strikes, before or after an input is told where its memory is."""

    def __init__(self, request: Any, name: str, told: bool) -> None:
        self.request, self.name, self.told = request, name, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self.request, name)

    def set_tensor(self, name: str, tensor: Any) -> None:
        if name != self.name:
            self.request.set_tensor(name, tensor)
            return
        if self.told:
            self.request.set_tensor(name, tensor)
        raise KeyboardInterrupt


@contextmanager
def struck(compiled: Compiled, name: str, written: bool) -> Iterator[None]:
    memory = compiled._held[name]
    compiled._held[name] = Struck(memory, written)
    try:
        yield
    finally:
        compiled._held[name] = memory


@pytest.mark.parametrize("name", ["input_ids", "rows"])
@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("after", [FIRST, SECOND])
def test_an_interrupt_while_inputs_are_written_leaves_no_input_of_another_pass(
    name: str, written: bool, after: list[int]
) -> None:
    other = [*SECOND, 4] if name == "rows" else SECOND
    expected, _ = rows(after), rows(FIRST)
    with struck(converted()._compiled, name, written), pytest.raises(KeyboardInterrupt):
        rows(other)
    assert torch.equal(rows(after), expected)


@pytest.mark.parametrize("name", ["input_ids", "rows", "subsequence_begins"])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("after", [FIRST, LONG])
def test_an_interrupt_while_memory_changes_leaves_no_input_of_another_pass(
    name: str, told: bool, after: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = converted()._compiled
    expected, _ = rows(after), rows(FIRST)
    compiled._held.clear()
    compiled._given.clear()
    with monkeypatch.context() as patched:
        patched.setattr(compiled, "_request", StruckRequest(compiled._request, name, told))
        with pytest.raises(KeyboardInterrupt):
            rows(LONG)
    assert torch.equal(rows(after), expected)
