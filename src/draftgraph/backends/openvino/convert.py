"""A transformers model as a graph of OpenVINO, by tracing one forward with explicit keys and values.

The graph has states for keys and values, as the paged step wants them (`compiled.py`). It can be saved and read back; a graph
after that step cannot.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from draftgraph.backends.cache_argument import cache_argument
from draftgraph.backends.openvino.products import join_products
from draftgraph.backends.openvino.refusals import UnfitError
from draftgraph.backends.openvino.rotary import exact_rotary
from draftgraph.backends.openvino.runtime import runtime
from draftgraph.backends.taps import held_taps, tapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS, ROWS = "logits", "rows"
"""Names in a graph: its first output, and the input i64[n] that says of which rows logits are wanted."""
_STATES = ("key", "value")
_PAST, _FED = 5, 3
"""Cached and fed tokens of the forward that is traced; unequal, so that nothing can be mistaken for something else."""


class _Past(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, which come in as inputs and go out as outputs."""

    keys: torch.Tensor
    values: torch.Tensor
    fed: tuple[torch.Tensor, torch.Tensor]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the tensors are given."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.fed = key_states, value_states
        self.keys, self.values = torch.cat([self.keys, key_states], 2), torch.cat([self.values, value_states], 2)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return 0, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length


class _Traced(torch.nn.Module):
    """One forward as a function of tensors: logits, then keys and values of every layer, then what is tapped."""

    def __init__(self, model: PreTrainedModel, taps: Sequence[str]) -> None:
        super().__init__()
        self.model, self.taps, self.argument = model, tuple(taps), cache_argument(model.forward)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        *states: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        layers = []
        for keys, values in zip(states[::2], states[1::2], strict=True):
            layer = _Past()
            layer.keys, layer.values, layer.is_initialized = keys, values, True
            layers.append(layer)
        held, others = held_taps(self.taps, len(layers))
        with tapped(self.model, others) as hidden:
            out = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=True,
                **{self.argument: Cache(layers=layers)},
            )
        for (number, part), name in held.items():
            hidden[name] = layers[number].fed[part].transpose(1, 2).flatten(2)
        present = [states for layer in layers for states in (layer.keys, layer.values)]
        return out.logits, *present, *(hidden[name] for name in self.taps)


def convert(model: PreTrainedModel, positions: int, taps: Sequence[str] = ()) -> Any:
    """The graph (an `openvino.Model`) of a float32 model in eval mode, for texts of at most `positions` tokens.

    taps  names of hidden states that the graph gives as well, see `CausalLM.forward`.

    Raises whatever torch or OpenVINO raise where they cannot trace the model.
    """
    shapes = _state_shapes(model)
    example = (
        torch.zeros(1, _FED, dtype=torch.long),
        torch.zeros(1, 1, _FED, _PAST + _FED),
        torch.arange(_PAST, _PAST + _FED)[None],
        *(torch.zeros(1, heads, _PAST, width) for heads, width in shapes),
    )
    with torch.inference_mode(False), torch.no_grad(), exact_rotary(model, positions), _quiet():
        graph = _trace(_Traced(model, taps), example)
    _name(graph, shapes, taps)
    _remember(graph, shapes)
    _pick_rows(graph)
    join_products(graph)
    return graph


def _trace(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
    """What `openvino.convert_model` does, without its telemetry, and without its hands on the root logger."""
    runtime()
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    # Torch would trace a second time and compare: a third of the work, and the graph's rows are compared later anyway.
    decoder = TorchScriptPythonDecoder(module, example_input=example, trace_kwargs={"check_trace": False})
    graph = frontend.convert(frontend.load(decoder))  # the decoder must live until here
    apply_moc_transformations(graph, cf=False, smart_reshape=False)
    return graph


@torch.no_grad()
def _state_shapes(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Heads and width of the keys, then of the values, of every layer."""
    cache = DynamicCache()
    model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=True, **{cache_argument(model.forward): cache})
    return [(held.shape[1], held.shape[3]) for layer in cache.layers for held in (layer.keys, layer.values)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracer's advice to whoever writes models."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _name(graph: Any, shapes: Sequence[tuple[int, int]], taps: Sequence[str]) -> None:
    """Give inputs and outputs their names, and free their sizes."""
    ov = runtime()

    free: dict[str, list[int]] = {"input_ids": [-1, -1], "attention_mask": [-1, 1, -1, -1], "position_ids": [-1, -1]}
    free |= {past: [-1, heads, -1, width] for past, (heads, width) in zip(_pasts(shapes), shapes, strict=True)}
    for port, (name, shape) in zip(graph.inputs, free.items(), strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(ov.PartialShape(shape))
    presents = [_present(past) for past in _pasts(shapes)]
    for port, name in zip(graph.outputs, [LOGITS, *presents, *taps], strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()


def _pasts(shapes: Sequence[tuple[int, int]]) -> list[str]:
    return [f"past_key_values.{i}.{what}" for i in range(len(shapes) // 2) for what in _STATES]


def _present(past: str) -> str:
    return past.replace("past_key_values", "present")


def _remember(graph: Any, shapes: Sequence[tuple[int, int]]) -> None:
    """Make keys and values states of the graph, in the form in which the paged step looks for them."""
    ov = runtime()
    from openvino import opset13 as op
    from openvino._offline_transformations import apply_make_stateful_transformation

    beam = op.parameter([-1], ov.Type.i32)
    beam.set_friendly_name("beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    graph.add_parameters([beam])
    inputs = {port.get_any_name(): port.get_node() for port in graph.inputs}
    for past in _pasts(shapes):
        users = list(inputs[past].output(0).get_target_inputs())
        gathered = op.gather(inputs[past], beam, op.constant(np.int64(0)))
        for user in users:
            user.replace_source_output(gathered.output(0))
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, {past: _present(past) for past in _pasts(shapes)})
    shape_of = op.shape_of(inputs["input_ids"], output_type="i64")
    batch = op.gather(shape_of, op.constant(np.array([0])), op.constant(np.int64(0)))
    sizes = dict(zip(_pasts(shapes), shapes, strict=True))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            heads, width = next(size for past, size in sizes.items() if node.get_variable_id().startswith(past))
            rest = [op.constant(np.array([size], np.int64)) for size in (heads, 0, width)]
            empty = op.broadcast(op.constant(np.float32(0)), op.concat([batch, *rest], 0))
            node.set_arguments([empty.output(0)])
    graph.validate_nodes_and_infer_types()


def _pick_rows(graph: Any) -> None:
    """Let only the wanted rows through the head. After the paged step, rows are the first axis."""
    ov = runtime()
    from openvino import opset13 as op

    rows = op.parameter([-1], ov.Type.i64)
    rows.set_friendly_name(ROWS)
    rows.output(0).get_tensor().set_names({ROWS})
    head = _head(graph)
    picked = op.gather(head.input_value(0), rows, op.constant(np.int64(0)))
    head.input(0).replace_source_output(picked.output(0))
    graph.add_parameters([rows])
    graph.validate_nodes_and_infer_types()


def _head(graph: Any) -> Any:
    """The multiplication that gives the logits; behind it a bias, a scale or a cap may follow. Raises UnfitError."""
    node = graph.outputs[0].get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        before = [source.get_node() for source in node.input_values() if not _is_constant(source.get_node())]
        if len(before) != 1:
            raise UnfitError("its logits do not come from one matrix, so that rows cannot be picked before it")
        node = before[0]
    return node


def _is_constant(node: Any) -> bool:
    return node.get_type_name() == "Constant" or (
        node.get_input_size() > 0 and all(_is_constant(source.get_node()) for source in node.input_values())
    )
