"""Products of one input with several matrices, as one product.

Attention multiplies the same rows by three matrices, a gated block by two. Matrices over one another are read in one kernel call,
and a pass that has another number of rows than the last one prepares fewer kernels. Every column is the sum that it was before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np


def join_products(graph: Any) -> None:
    """Join them in place. graph  an `openvino.Model` whose weights are constants, not compressed yet."""
    by_input: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for node in graph.get_ordered_ops():
        if _is_product(node):
            source = node.input_value(0)
            by_input[source.get_node().get_name(), source.get_index()].append(node)
    for products in by_input.values():
        if len(products) > 1:
            _join(products)
    graph.validate_nodes_and_infer_types()


def _is_product(node: Any) -> bool:
    """Whether a node multiplies rows by a matrix of weights that lies as in `torch.nn.Linear`."""
    if node.get_type_name() != "MatMul":
        return False
    weight, how = node.input_value(1), node.get_attributes()
    is_weight = weight.get_node().get_type_name() == "Constant" and len(weight.get_shape()) == 2
    return is_weight and bool(how["transpose_b"]) and not how["transpose_a"]


def _join(products: Sequence[Any]) -> None:
    from openvino import opset13 as op

    weights = [product.input_value(1).get_node().get_data() for product in products]
    joined = op.matmul(products[0].input_value(0), op.constant(np.concatenate(weights)), False, True)
    ends: Sequence[Any] = products
    sums = [found for product in products if (found := _bias(product)) is not None]
    if len(sums) == len(products):
        biases = [bias for _, bias in sums]
        joined = op.add(joined, op.constant(np.concatenate(biases)))
        ends = [total for total, _ in sums]
    last = joined.output(0).get_partial_shape().rank.get_length() - 1
    counts = op.constant(np.array([len(weight) for weight in weights], np.int64))
    parts = op.variadic_split(joined, op.constant(np.int64(last)), counts)
    for end, part in zip(ends, parts.outputs(), strict=True):
        for user in list(end.output(0).get_target_inputs()):
            user.replace_source_output(part)


def _bias(product: Any) -> tuple[Any, Any] | None:
    """The sum of a product and a bias f[n], and the bias, if that sum is all that becomes of the product."""
    users = list(product.output(0).get_target_inputs())
    if len(users) != 1 or users[0].get_node().get_type_name() != "Add":
        return None
    total = users[0].get_node()
    other = total.input_value(1 - users[0].get_index()).get_node()
    if other.get_type_name() != "Constant" or other.get_output_size() != 1:
        return None
    bias = other.get_data().reshape(-1)
    return (total, bias) if len(bias) == product.input_value(1).get_shape()[0] else None
