"""A converted graph, compiled for paged attention on the CPU, and one pass of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from draftgraph.backends.openvino.convert import LOGITS
from draftgraph.backends.openvino.huge_pages import HugePages
from draftgraph.backends.openvino.layout import Inputs
from draftgraph.backends.openvino.pool import CELLS, Shape
from draftgraph.backends.openvino.precision import Precision
from draftgraph.backends.openvino.refusals import UnfitError
from draftgraph.backends.openvino.runtime import runtime

_KINDS: dict[str, np.dtype[Any]] = {"f32": np.dtype(np.float32), "bf16": np.dtype(np.uint16)}
"""NumPy has no bfloat16; its bits are moved about as whole numbers."""

MOST_KEPT = 4096
"""Values of an input, at most, whose memory is kept: a mask of 64 rows has so many."""
MOST_MADE = 256
"""Inputs and sizes, at most, whose memory is kept. Under load nearly every pass names another number of blocks."""


class Compiled:
    """A graph that runs. It writes keys and values into memory that is attached to it.

    shapes  of its keys and values. kind  of their elements.
    """

    def __init__(self, graph: Any, precision: Precision, threads: int, pages: HugePages | None = None) -> None:
        """graph  on paged attention. pages  that its weights move to. Raises whatever OpenVINO raises where it cannot run it."""
        ov = runtime()
        compiled = ov.Core().compile_model(graph, "CPU", precision.hints(threads))
        self._request = compiled.create_infer_request()
        self._held: dict[str, npt.NDArray[np.generic]] = {}
        self._made: dict[tuple[str, int], tuple[npt.NDArray[np.generic], Any]] = {}
        self._given: dict[str, Sequence[float] | npt.NDArray[np.uint8]] = {}
        self._gave: Sequence[npt.NDArray[np.float32]] = ()
        self._pages = pages
        self.kind = _KINDS[precision.activations]
        self._element = ov.Type.f32 if precision.activations == "f32" else ov.Type.bf16
        self._ports = {port.get_any_name(): port for port in compiled.inputs}
        # An output may bear names of the trace as well, where nothing lies between the two.
        self.outputs = {name: number for number, port in enumerate(compiled.outputs) for name in port.get_names()}
        self.shapes = [_shape(port, self._element) for port in compiled.inputs if "_cache." in port.get_any_name()]

    def attach(self, name: str, memory: npt.NDArray[np.generic]) -> None:
        """Let the graph keep keys or values in this memory."""
        ov = runtime()

        self._request.set_tensor(name, ov.Tensor(memory, memory.shape, self._element))

    def run(self, inputs: Inputs) -> None:
        """One pass. What it gives is valid until the next one."""
        known = self._given
        for name, values in inputs.items():
            given = known.get(name)
            if values is given or (isinstance(values, list) and values == given):
                continue  # most of them stay as they are from pass to pass
            known.pop(name, None)  # an interrupt may strike before they are written, or behind that
            held = self._held.get(name)
            if held is not None and held.size == len(values):
                held[...] = values
            else:
                self._hold(name, values)
            known[name] = values
        self._gave = self._request.infer(share_outputs=True).to_tuple()
        if self._pages is not None:
            self._pages.move()

    def settle(self) -> None:
        """Move what is left of the weights to huge pages."""
        if self._pages is not None:
            self._pages.move_all()

    def _hold(self, name: str, values: Sequence[float] | npt.NDArray[np.uint8]) -> None:
        """Values in memory that the graph reads at every pass from now on. Small memory is kept for passes of the same size."""
        made = self._made.get((name, len(values)))
        if made is None:
            made = self._memory(name, len(values))
            if len(values) <= MOST_KEPT:
                self._made[name, len(values)] = made
            if len(self._made) > MOST_MADE:  # the oldest one; what the graph reads now stays held
                self._made.pop(next(iter(self._made)))
        memory, tensor = made
        memory[...] = values
        self._held.pop(name, None)  # after an interrupt nobody knows which memory the graph reads
        self._request.set_tensor(name, tensor)
        self._held[name] = memory

    def _memory(self, name: str, size: int) -> tuple[npt.NDArray[np.generic], Any]:
        """Memory for values of an input, and the tensor that shares it."""
        ov = runtime()

        port = self._ports[name]
        memory = np.empty(size, dtype=port.element_type.to_dtype())
        shaped = memory if port.partial_shape.rank.get_length() else memory.reshape(())
        return memory, ov.Tensor(shaped, shared_memory=True)

    def output(self, name: str = LOGITS) -> npt.NDArray[np.float32]:
        """A view f32[rows, width] of what the last pass gave."""
        data = self._gave[self.outputs[name]]
        return data.reshape(-1, data.shape[-1])

    def has(self, names: Sequence[str]) -> bool:
        return set(names) <= self.outputs.keys()


def _shape(port: Any, element: Any) -> Shape:
    """Raises UnfitError for a cache of another layout."""
    sizes = port.partial_shape
    if len(sizes) != 4 or any(sizes[i].is_dynamic for i in (1, 2, 3)) or port.element_type != element:
        raise UnfitError(f"OpenVINO lays its cache out as {sizes} {port.element_type}, which is not known here")
    if sizes[2].get_length() != CELLS:
        raise UnfitError(f"OpenVINO wants blocks of {sizes[2].get_length()} cells here, not {CELLS}")
    return Shape(port.get_any_name(), sizes[1].get_length(), sizes[3].get_length())
