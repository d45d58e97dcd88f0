"""A transformers model whose passes are recorded once per bucket of rows and cells, and replayed as CUDA graphs.

A forward of a few rows is hundreds of small kernels, and launching them takes longer than running them. A graph launches them
at once. The model's own code runs when a graph is recorded; a replay runs what it has launched then, over the new inputs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from draftgraph.backends.base import CacheHandle
from draftgraph.backends.static_pass import StaticPass, StaticPool, bucket_rows
from draftgraph.backends.torch_model import Rows, TorchModel
from draftgraph.errors import ModelError, first_line

MOST_RECORDED_ROWS = 256
"""Passes of more rows, as of long prompts, are arithmetic: nothing is gained by recording them."""
MOST_GRAPHS = 64
"""Graphs that are kept; the one that was not replayed for the longest time is recorded again when it is needed."""
_RECORDING = threading.Lock()
"""One recording at a time in a process. Whoever holds it waits for nothing else."""


@dataclass(frozen=True)
class Recorded:
    """logits  f[rows, V] what the last replay has put out. replay  runs the pass again over its buffers."""

    logits: torch.Tensor
    replay: Callable[[], None]


class CudaGraphModel(TorchModel):
    """`TorchModel` with passes of static shapes. On a GPU they are recorded and replayed; elsewhere they run as they are.

    Rows are padded to powers of two, and cells to a few sizes. Wide passes and passes with taps run as in `TorchModel`.
    A replay does not see what Python does in the model: weights that were replaced and hooks that were added are noticed when
    the next request opens, and then everything is recorded again.

    Raises ModelError for adapters, which may be switched within Python, and for models that cannot be recorded.
    """

    name: ClassVar[str] = "cuda_graphs"

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        if self.adapter is not None or getattr(self.model, "_hf_peft_config_loaded", False):
            raise ModelError(
                f"backend='cuda_graphs' replays recorded passes and would not notice an adapter that is switched; {self.remedy}, "
                "or write backend='torch'"
            )
        self.cache = StaticPool(self.config.num_hidden_layers)
        self._passes: OrderedDict[tuple[int, int], tuple[StaticPass, Recorded | None]] = OrderedDict()
        self._graphs: Any = None  # the memory that all graphs share
        self._recorded_with: tuple[Any, ...] = ()

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} {self.name}"

    @property
    def records(self) -> bool:
        """Whether passes are recorded, or only shaped as if they were."""
        return self.device.type == "cuda"

    def open(self, capacity: int) -> CacheHandle:
        with self._lock:
            if self._recorded_with and self._recorded_with != _recordable(self.model):
                self._forget()
        return super().open(capacity)

    def _logits(self, rows: Rows, taps: Sequence[str]) -> torch.Tensor:
        if self.cache.capacity != self._held_cells():
            self._forget()  # this pass moves the cells to other memory
        if taps or len(rows.tokens) > MOST_RECORDED_ROWS:
            return super()._logits(rows, taps)
        with torch.inference_mode():
            static, recorded = self._pass(bucket_rows(len(rows.tokens)))
            self.cache.begin(static.written)
            count = static.load(rows)
            if not self.records:
                return self._run(static)[:count]
            if recorded is None:
                recorded = self._record(lambda: self._run(static))
                self._passes[static.rows, static.cells] = static, recorded
            recorded.replay()
            return recorded.logits[:count].clone()  # the next replay writes there

    def _pass(self, rows: int) -> tuple[StaticPass, Recorded | None]:
        """The pass of a bucket of rows over the cells that are read now."""
        key = rows, self.cache.high
        if key not in self._passes:
            while len(self._passes) >= MOST_GRAPHS:
                self._passes.popitem(last=False)
            self._passes[key] = StaticPass(*key, self.device), None
        self._passes.move_to_end(key)
        return self._passes[key]

    def _held_cells(self) -> int:
        """Cells that have memory; graphs point into it."""
        first = self.cache.memory.tensors[0][0]
        return 0 if first is None else first.shape[2]

    def _forget(self) -> None:
        """Drop all graphs."""
        self._passes.clear()
        self._graphs, self._recorded_with = None, ()

    def _run(self, static: StaticPass) -> torch.Tensor:
        """Logits f[rows, V] of a pass over its buffers, the wanted rows first."""
        hidden = max(torch.finfo(self.dtype).min, torch.finfo(torch.float32).min)
        return self.call(
            input_ids=static.ids[None],
            attention_mask=static.hidden.to(self.dtype).mul_(hidden)[None, None],
            position_ids=static.positions[None],
            use_cache=True,
            logits_to_keep=static.wanted,
            **{self.cache_argument: self.cache},
        )[0]

    def _record(self, run: Callable[[], torch.Tensor]) -> Recorded:
        """Record a pass. It runs once before: libraries choose their kernels then, and the pool gets its memory."""
        run()
        self._recorded_with = _recordable(self.model)
        try:
            with _RECORDING:
                return self._captured(run)
        except (RuntimeError, ValueError) as error:
            self._forget()
            raise ModelError(
                f"{self.class_name} cannot be recorded in a CUDA graph ({first_line(error)}); write backend='torch'"
            ) from error

    def _captured(self, run: Callable[[], torch.Tensor]) -> Recorded:
        self._graphs = self._graphs or torch.cuda.graph_pool_handle()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._graphs, capture_error_mode="thread_local"):
                logits = run()
        finally:
            torch.cuda.set_stream(stream)  # which a recording that fails does not
        return Recorded(logits, graph.replay)


def _recordable(model: torch.nn.Module) -> tuple[Any, ...]:
    """What a recorded pass depends on: where the weights lie, and which hooks run."""
    tensors = [*model.parameters(), *model.buffers()]
    hooks = [key for module in model.modules() for key in (*module._forward_pre_hooks, *module._forward_hooks)]
    return (tuple(tensor.data_ptr() for tensor in tensors), tuple(hooks))
