"""A converted graph as it is kept and compiled: on paged attention.

What is done here once need not be done at every start, where it took a fifth of the time that `compile_model` takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from draftgraph.backends.openvino.gates import keep_apart
from draftgraph.backends.openvino.precision import Precision
from draftgraph.backends.openvino.runtime import runtime

_WITH_BIAS = (False, False, False, False, False, False, True)
"""Flags of the transformation: masks among the rows of a pass, and nothing else."""
_CACHES = ((3, "num_k_heads", "k_head_size"), (4, "num_v_heads", "v_head_size"))
"""Inputs of paged attention that are caches, and the names under which it wants to know their heads and how wide they are."""


def to_paged(graph: Any, precision: Precision) -> None:
    """Rewrite an `openvino.Model` in place. Raises whatever OpenVINO raises where it cannot."""
    ov = runtime()
    from openvino._offline_transformations import paged_attention_transformation

    if precision.exact:  # elsewhere products are rounded, and their order tells
        keep_apart(graph)
    paged_attention_transformation(graph, *_WITH_BIAS)
    for attention in _attentions(graph):
        known = attention.get_rt_info()
        for place, heads, width in _CACHES:
            # A file keeps shapes, and not what is known of a node beside them.
            sizes = [-1, known[heads].value, -1, known[width].value]
            attention.input_value(place).get_node().set_partial_shape(ov.PartialShape(sizes))
    graph.validate_nodes_and_infer_types()


def read_paged(file: Path) -> Any:
    """The graph of a file. Raises RuntimeError, as OpenVINO does."""
    core = runtime().Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # only a core that has loaded its plugin reads paged attention
    graph = core.read_model(file)
    for attention in _attentions(graph):
        known = attention.get_rt_info()
        for place, heads, width in _CACHES:
            sizes = attention.input_value(place).get_node().get_partial_shape()
            known[heads], known[width] = sizes[1].get_length(), sizes[3].get_length()
    return graph


def constant_of(graph: Any) -> Any:
    """Any constant of a graph that was read: as long as it is there, the file stays mapped. None if there is none."""
    return next((node for node in graph.get_ops() if node.get_type_name() == "Constant"), None)


def _attentions(graph: Any) -> list[Any]:
    return [node for node in graph.get_ops() if node.get_type_name() == "PagedAttentionExtension"]
