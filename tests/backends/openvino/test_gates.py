"""Gates that are kept apart compute what they did, and no others are touched."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

ov = pytest.importorskip("openvino")

from openvino import opset13 as op  # noqa: E402

from draftgraph.backends.openvino.gates import keep_apart  # noqa: E402

X = np.linspace(-9.0, 9.0, 24, dtype=np.float32).reshape(4, 6)


def layer(gate_first: bool, other: str = "up", read_twice: bool = False) -> Any:
    """up(x) · swish(gate(x)), or one of its relatives, as a graph."""
    rng = np.random.default_rng(0)
    gate, up = (op.constant(rng.normal(size=(6, 5)).astype(np.float32)) for _ in range(2))
    x = op.parameter([-1, 6], ov.Type.f32)
    swish = op.swish(op.matmul(x, gate, False, False))
    factor = op.matmul(x, up, False, False) if other == "up" else op.constant(np.float32(0.5))
    product = op.multiply(*((swish, factor) if gate_first else (factor, swish)))
    return ov.Model([product, swish] if read_twice else [product], [x])


def run(graph: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(X)[0]
    return found


@pytest.mark.parametrize("gate_first", [True, False], ids=["gate first", "gate last"])
def test_a_gate_is_kept_apart_and_gives_what_it_gave(gate_first: bool) -> None:
    graph = layer(gate_first)
    before = run(graph.clone())
    assert keep_apart(graph) == 1
    kinds = Counter(node.get_type_name() for node in graph.get_ops())
    assert (kinds["Swish"], kinds["Sigmoid"], kinds["Multiply"]) == (0, 1, 2)
    np.testing.assert_allclose(run(graph), before, rtol=1e-5, atol=1e-6)


def test_an_activation_that_others_read_too_stays() -> None:
    assert keep_apart(layer(gate_first=True, read_twice=True)) == 0


def test_a_graph_without_gates_stays() -> None:
    x = op.parameter([-1, 6], ov.Type.f32)
    assert keep_apart(ov.Model([op.relu(x)], [x])) == 0
