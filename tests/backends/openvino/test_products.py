"""Products of one input become one, whatever biases there are, and the numbers stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from draftgraph.backends.openvino.convert import _quiet, _trace, convert
from draftgraph.backends.openvino.products import join_products
from models import tiny_lm

ov = pytest.importorskip("openvino")


def graph_of(module: nn.Module, *shape: int) -> Any:
    with torch.no_grad(), _quiet():
        graph = _trace(module.eval(), (torch.zeros(shape),))
    graph.reshape([-1 if size == 3 else size for size in shape])
    return graph


def products(graph: Any) -> int:
    """Products with a matrix of weights."""
    found = [node for node in graph.get_ops() if node.get_type_name() == "MatMul"]
    return sum(node.input_value(1).get_node().get_type_name() == "Constant" for node in found)


def says(graph: Any, rows: np.ndarray) -> list[np.ndarray]:
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [np.array(found) for found in compiled(rows).values()]


class Three(nn.Module):
    """Three matrices over one input; the second is wanted twice, the fourth reads another input."""

    def __init__(self, biased: tuple[bool, bool, bool]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, size, bias=bias) for size, bias in zip((8, 4, 6), biased, strict=True))
        self.d = nn.Linear(8, 4)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b, c = self.a(rows), self.b(rows), self.c(rows)
        return a + 1.0, b, torch.cat([c, b * self.d(a)], -1)


@pytest.mark.parametrize("biased", [(False,) * 3, (True,) * 3, (True, False, True), (False, True, False)])
@pytest.mark.parametrize("shape", [(3, 8), (1, 3, 8)])
def test_joined_products_say_what_they_said(biased: tuple[bool, bool, bool], shape: tuple[int, ...]):
    torch.manual_seed(0)
    graph = graph_of(Three(biased), *shape)
    rows = np.random.default_rng(1).standard_normal((*shape[:-2], 5, 8)).astype(np.float32)
    before = says(graph, rows)
    assert products(graph) == 4
    join_products(graph)
    assert products(graph) == 2
    for one, other in zip(before, says(graph, rows), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_product_that_is_used_without_its_bias_keeps_its_sum():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)
            self.bias = nn.Parameter(torch.ones(4))

        def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
            a = self.a(rows)
            return a, a + self.bias, self.b(rows) + self.bias

    torch.manual_seed(0)
    graph = graph_of(Twice(), 3, 8)
    rows = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    before = says(graph, rows)
    join_products(graph)
    assert products(graph) == 1
    for one, other in zip(before, says(graph, rows), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_block_of_a_model_has_four_products():
    assert products(convert(tiny_lm(layers=2), 64)) == 2 * 4 + 1
