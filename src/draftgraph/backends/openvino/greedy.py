"""Greedy chains: a small model reads a token, then the best one behind it, and so on, all in one pass.

Around a pass of a small drafter the engine spends more time than the pass takes, and it comes back to cold caches. So its graph
is repeated, and every copy reads the best token behind the row of the one before. A chain at temperature 0 is one pass then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from draftgraph.backends.openvino.compiled import Compiled
from draftgraph.backends.openvino.convert import ROWS
from draftgraph.backends.openvino.layout import Inputs, lay_out
from draftgraph.backends.openvino.pool import BlockPool
from draftgraph.backends.openvino.precision import Precision
from draftgraph.backends.openvino.runtime import runtime
from draftgraph.backends.openvino.text import Rows

TOKENS, CELLS_BEFORE = "tokens", "cells_before"
"""Names in a repeated graph: the tokens i64[steps - 1] that it chose, and the input i64[steps - 1] that says where they stand."""
FIRST_ROWS = 2
"""Rows of the first step: what a drafter has missed of the last round. All shapes are known then, which saves a tenth."""
MOST_STEPS = 8
"""Steps of one pass, at most; longer chains are several."""
MOST_LAYERS, MOST_BYTES = 4, 16 << 20
"""Where a graph is larger, its own time is most of a pass, and repeating it takes long."""
WEIGHT_BYTES = 1024
"""Constants of fewer bytes are no weights."""
PATIENCE_STEPS = 1000
"""Steps for nothing that take about as long as making a graph with fewer."""


def is_small(graph: Any) -> bool:
    """Whether repeating a graph pays. graph  before the paged step."""
    kinds = Counter(node.get_type_name() for node in graph.get_ops())
    weights = sum(node.get_byte_size() for node in graph.get_ops() if node.get_type_name() == "Constant")
    return kinds["ReadValue"] <= 2 * MOST_LAYERS and weights <= MOST_BYTES


def repeated(graph: Any, steps: int) -> Any:
    """A graph of `steps` > 1 copies. graph  after the paged step; it is used up.

    The first copy reads FIRST_ROWS rows of a sequence and gives logits of one of them, the others read one row.
    """
    ov = runtime()
    from openvino import opset13 as op

    single = graph.clone()
    inputs = {port.get_any_name(): port.get_node() for port in graph.inputs}
    for name, size in {"input_ids": FIRST_ROWS, "position_ids": FIRST_ROWS, ROWS: 1, "past_lens": 1}.items():
        inputs[name].set_partial_shape(ov.PartialShape([size]))
    cells = op.parameter([steps - 1], ov.Type.i64)
    cells.output(0).get_tensor().set_names({CELLS_BEFORE})
    first, begins = op.constant(np.int64(0)), op.constant(np.array([0, 1], np.int32))
    positions, pasts = (op.split(of_all, first, steps - 1).outputs() for of_all in (cells, op.convert(cells, "i32")))
    weights = {node.get_friendly_name(): node for node in graph.get_ops() if _is_weight(node)}
    rows, tokens = [_logits(graph)], []
    for position, past in zip(positions, pasts, strict=True):
        best = op.topk(rows[-1], op.constant(np.int64(1)), -1, "max", "value", index_element_type="i64").output(1)
        tokens.append(op.reshape(best, op.constant(np.array([1])), False))
        own = {"input_ids": tokens[-1].output(0), "position_ids": position, "past_lens": past}
        own["subsequence_begins"] = begins.output(0)
        copied = single.clone()
        _feed(copied, {name: own.get(name, node.output(0)) for name, node in inputs.items()}, weights)
        rows.append(_logits(copied))
    outputs = [_result(op.concat(rows, 0), graph.outputs[0].get_names()), _result(op.concat(tokens, 0), {TOKENS})]
    return ov.Model(outputs, [*inputs.values(), cells])


def _is_weight(node: Any) -> bool:
    return node.get_type_name() == "Constant" and bool(node.get_byte_size() >= WEIGHT_BYTES)


def _logits(graph: Any) -> Any:
    return graph.outputs[0].get_node().input_value(0)


def _result(value: Any, names: set[str]) -> Any:
    from openvino import opset13 as op

    result = op.result(value)
    result.output(0).get_tensor().set_names(names)
    return result


def _feed(graph: Any, given: dict[str, Any], weights: dict[str, Any]) -> None:
    """Let a graph of one row read these values in the place of its inputs, and the same weights as all others."""
    for port in graph.inputs:
        for user in list(port.get_node().output(0).get_target_inputs()):
            if port.get_any_name() == ROWS:  # its only row goes to the head as it is
                picked = user.get_node()
                picked.output(0).replace(picked.input_value(0))
            else:
                user.replace_source_output(given[port.get_any_name()])
    for node in graph.get_ops():
        if _is_weight(node):
            node.output(0).replace(weights[node.get_friendly_name()].output(0))


class Chains:
    """The repeated graphs of one model, each made when it is needed first, over the same keys and values.

    graph  of the model, before the paged step.
    """

    def __init__(self, graph: Any, precision: Precision, threads: int, pool: BlockPool) -> None:
        self._graph, self._precision, self._threads, self._pool = graph, precision, threads, pool
        self._made: dict[int, Compiled] = {}
        self._wasted: Counter[int] = Counter()

    def of(self, wanted: int) -> tuple[int, Compiled]:
        """The steps of a graph with `wanted` steps at least, and what runs it.

        A first chain wants one step less than later ones, for its prompt is read before it. So a new graph has one more than is
        wanted. One that fits is made once the steps for nothing have cost as much.
        """
        steps = min((steps for steps in self._made if steps >= wanted), default=0)
        if steps == 0:
            steps = self._make(min(wanted + 1, MOST_STEPS))
        self._wasted[wanted] += steps - wanted
        if self._wasted[wanted] > PATIENCE_STEPS:
            steps = self._make(wanted)
        return steps, self._made[steps]

    def _make(self, steps: int) -> int:
        compiled = Compiled(self._graph.clone(), self._precision, self._threads, partial(repeated, steps=steps))
        self._pool.reach(compiled.attach)
        self._made[steps] = compiled
        return steps


def lay_out_chain(rows: Rows, blocks: Sequence[int], steps: int) -> Inputs:
    """Inputs of a repeated graph. rows  at most FIRST_ROWS, in order, of which the last one is asked for."""
    cells = rows.past + len(rows.tokens)
    return {
        **lay_out([(rows, blocks)], FIRST_ROWS),
        ROWS: rows.asked,
        CELLS_BEFORE: list(range(cells, cells + steps - 1)),
        "block_indices": blocks,
        "block_indices_begins": [0, len(blocks)],
        "max_context_len": [cells + steps],
    }
