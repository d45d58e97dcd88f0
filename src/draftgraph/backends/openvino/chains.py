"""Chains in one pass: a small model reads a token, then the one that it chooses behind it, and so on.

Around a pass of a small drafter the engine spends more time than the pass takes, and it comes back to cold caches. So its graph
is repeated, and every copy reads the token that is chosen by the row of the one before: the best one, or the one at a quantile.
A chain is one pass then. Whoever drafts chooses once more, by the rows that it is given; where rounding made the graph choose
another token, what it read behind it is not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from draftgraph.backends.base import Likely
from draftgraph.backends.openvino.compiled import Compiled
from draftgraph.backends.openvino.convert import ROWS
from draftgraph.backends.openvino.layout import Inputs, lay_out
from draftgraph.backends.openvino.pool import BlockPool
from draftgraph.backends.openvino.precision import Precision
from draftgraph.backends.openvino.runtime import runtime
from draftgraph.backends.openvino.text import Rows

TOKENS, CELLS_BEFORE = "tokens", "cells_before"
"""Names in a repeated graph: the tokens i64[steps - 1] that it chose, and the input i64[steps - 1] that says where they stand."""
QUANTILES, EXPONENT = "quantiles", "exponent"
"""Inputs f32[steps - 1] and f32[1] of a graph that draws: `Likely`."""
FIRST_ROWS = 2
"""Rows of the first step: what a drafter has missed of the last round. All shapes are known then, which saves a tenth."""
MOST_STEPS = 8
"""Steps of one pass, at most; longer chains are several."""
MOST_LAYERS, MOST_BYTES = 4, 16 << 20
"""Where a graph is larger, its own time is most of a pass, and repeating it takes long."""
WEIGHT_BYTES = 1024
"""Constants of fewer bytes are no weights."""
PATIENCE_STEPS = 600
"""Steps for nothing, after which a graph with fewer is made: about as many as take as long as making it."""


def is_small(graph: Any) -> bool:
    """Whether repeating a graph on paged attention pays."""
    kinds = Counter(node.get_type_name() for node in graph.get_ops())
    return kinds["PagedAttentionExtension"] <= MOST_LAYERS and weight_bytes(graph) <= MOST_BYTES


def weight_bytes(graph: Any) -> int:
    return sum(node.get_byte_size() for node in graph.get_ops() if node.get_type_name() == "Constant")


def repeated(graph: Any, steps: int, draws: bool) -> Any:
    """A graph of `steps` > 1 copies. graph  on paged attention; it is used up. draws  or takes the best tokens.

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
    choices = _Draws(steps - 1) if draws else _Best()
    for step, (position, past) in enumerate(zip(positions, pasts, strict=True)):
        tokens.append(op.reshape(choices.token(rows[-1], step), op.constant(np.array([1])), False))
        own = {"input_ids": tokens[-1].output(0), "position_ids": position, "past_lens": past}
        own["subsequence_begins"] = begins.output(0)
        copied = single.clone()
        _feed(copied, {name: own.get(name, node.output(0)) for name, node in inputs.items()}, weights)
        rows.append(_logits(copied))
    outputs = [_result(op.concat(rows, 0), graph.outputs[0].get_names()), _result(op.concat(tokens, 0), {TOKENS})]
    return ov.Model(outputs, [*inputs.values(), cells, *choices.inputs])


class _Best:
    """Chooses the best token of every row."""

    inputs: Sequence[Any] = ()

    def token(self, row: Any, step: int) -> Any:
        from openvino import opset13 as op

        return op.topk(row, op.constant(np.int64(1)), -1, "max", "value", index_element_type="i64").output(1)


class _Draws:
    """Chooses the token at a quantile of every row's law."""

    def __init__(self, count: int) -> None:
        from openvino import opset13 as op

        ov = runtime()
        self._quantiles, self._exponent = (op.parameter([size], ov.Type.f32) for size in (count, 1))
        self.inputs = [self._quantiles, self._exponent]
        for node, name in zip(self.inputs, (QUANTILES, EXPONENT), strict=True):
            node.output(0).get_tensor().set_names({name})
        self._each = op.split(self._quantiles, op.constant(np.int64(0)), count).outputs()

    def token(self, row: Any, step: int) -> Any:
        from openvino import opset13 as op

        axis = op.constant(np.int64(-1))
        sums = op.cum_sum(op.softmax(op.multiply(row, self._exponent), -1), axis)
        below = op.reduce_sum(op.convert(op.less_equal(sums, self._each[step]), "f32"), axis, False)
        last = row.get_partial_shape()[-1].get_length() - 1  # sums may end a little below 1
        return op.convert(op.minimum(below, op.constant(np.float32(last))), "i64")


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

    graph  of the model, on paged attention.
    """

    def __init__(self, graph: Any, precision: Precision, threads: int, pool: BlockPool) -> None:
        self._graph, self._precision, self._threads, self._pool = graph, precision, threads, pool
        self._made: dict[tuple[bool, int], Compiled] = {}
        self._wasted: Counter[tuple[bool, int]] = Counter()

    def of(self, wanted: int, draws: bool) -> tuple[int, Compiled]:
        """The steps of a graph with `wanted` steps at least, and what runs it. draws  or takes the best tokens.

        A first chain wants one step less than later ones, for its prompt is read before it. So a new graph has one more than is
        wanted. One that fits is made after PATIENCE_STEPS for nothing.
        """
        steps = min((steps for drawn, steps in self._made if drawn == draws and steps >= wanted), default=0)
        if steps == 0:
            steps = self._make(min(wanted + 1, MOST_STEPS), draws)
        self._wasted[draws, wanted] += steps - wanted
        if steps > wanted and self._wasted[draws, wanted] > PATIENCE_STEPS:
            steps = self._make(wanted, draws)
        return steps, self._made[draws, steps]

    def _make(self, steps: int, draws: bool) -> int:
        compiled = Compiled(repeated(self._graph.clone(), steps, draws), self._precision, self._threads)
        self._pool.reach(compiled.attach)
        self._made[draws, steps] = compiled
        return steps


def lay_out_chain(rows: Rows, blocks: Sequence[int], steps: int, likely: Likely) -> Inputs:
    """Inputs of a repeated graph. rows  at most FIRST_ROWS, in order, of which the last one is asked for."""
    cells = rows.past + len(rows.tokens)
    quantiles = [*likely.quantiles[: steps - 1], *[0.0] * (steps - 1 - len(likely.quantiles))]
    drawn: Inputs = {QUANTILES: quantiles, EXPONENT: [likely.exponent]} if likely.quantiles else {}
    return {
        **drawn,
        **lay_out([(rows, blocks)], FIRST_ROWS),
        ROWS: rows.asked,
        CELLS_BEFORE: list(range(cells, cells + steps - 1)),
        "block_indices": blocks,
        "block_indices_begins": [0, len(blocks)],
        "max_context_len": [cells + steps],
    }
