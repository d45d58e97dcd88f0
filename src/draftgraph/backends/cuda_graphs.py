"""A transformers model whose passes are recorded once per bucket of rows and cells, and replayed as CUDA graphs.

A forward of a few rows is hundreds of small kernels, and launching them takes longer than running them. A graph launches them
at once. The model's own code runs when a graph is recorded; a replay runs what it has launched then, over the new inputs.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from draftgraph.backends.base import CacheHandle, Feed, Scored
from draftgraph.backends.cell_rows import enter, entering, mask_of, split
from draftgraph.backends.static_pass import StaticPass, StaticPool, bucket_rows
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import LogitsError, ModelError, OptionError, first_line

MOST_RECORDED_ROWS = 256
"""Passes of more rows, as of long prompts, are arithmetic: nothing is gained by recording them."""
MOST_GRAPHS = 64
"""Graphs that are kept; the one that was not replayed for the longest time is recorded again when it is needed."""
_RECORDING = threading.Lock()
"""One recording at a time in a process. Whoever holds it waits for nothing else."""


PutOut = tuple[torch.Tensor, torch.Tensor]
"""Logits f[rows, V], the wanted rows first, and their sum f32[], which is not finite if one of them is not."""


@dataclass(frozen=True)
class Recorded:
    """out  what the last replay has put out. replay  runs the pass again over its buffers."""

    out: PutOut
    replay: Callable[[], None]


class CudaGraphModel(TorchModel):
    """`TorchModel` with passes of static shapes. On a GPU they are recorded and replayed; elsewhere they run as they are.

    Rows are padded to powers of two, and cells to a few sizes. Wide passes and passes with taps run as in `TorchModel`.
    A replay does not see what Python does in the model: weights that were replaced and hooks that were added are noticed when
    the next request opens, and then everything is recorded again.

    Raises ModelError for adapters, which may be switched within Python, and for models that cannot be recorded.
    """

    name: ClassVar[str] = "cuda_graphs"
    sizes: ClassVar[Sequence[int]] = tuple(1 << power for power in range(MOST_RECORDED_ROWS.bit_length()))

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        if self.adapter is not None or getattr(self.model, "_hf_peft_config_loaded", False):
            raise ModelError(
                f"backend='cuda_graphs' replays recorded passes and would not notice an adapter that is switched; {self.remedy}, "
                "or write backend='torch'"
            )
        if self._own_way:
            raise ModelError(
                f"backend='cuda_graphs' records one mask for all layers, and {self.class_name} has {self._own_way}; "
                "write backend='torch'"
            )
        self.cache = StaticPool(self.config.num_hidden_layers)
        self._passes: OrderedDict[tuple[int, int], tuple[StaticPass, Recorded | None]] = OrderedDict()
        self._graphs: Any = None  # the memory that all graphs share
        self._recorded_with: tuple[Any, ...] = ()
        self._recorded_in = (0, 0)

    @property
    def _own_way(self) -> str:
        """What one mask for all layers does not say, in words; nothing for most models."""
        if self._biased or self._holders:
            return "layers that make their own mask"
        if self._tables:
            return "a table of positions that is asked inside"
        if self._switch is not None:
            return "positions that a long text changes"
        return "" if all(kind.span is None for kind in self.kinds) else "layers that read windows"

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} {self.name}"

    @property
    def records(self) -> bool:
        """Whether passes are recorded, or only shaped as if they were."""
        return self.device.type == "cuda"

    def recorded(self, rows: int) -> Recorded | None:
        """What was recorded for passes of so many rows and replayed last, for measurements; None if nothing was."""
        found = [recorded for static, recorded in self._passes.values() if static.rows == bucket_rows(rows)]
        return found[-1] if found else None

    def open(self, capacity: int) -> CacheHandle:
        with self._lock:
            if self._recorded_with and self._recorded_with != _recordable(self.model):
                self._forget()
        return super().open(capacity)

    @torch.inference_mode()
    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        rows = sum(feed.num_rows for feed in feeds)
        if taps or rows > MOST_RECORDED_ROWS:
            return super().forward(feeds, taps)
        with self._lock, entering(feeds):
            if self.model.training or self.called.training:
                self.refuse_training()
            cells = self.cache.find([feed.text for feed in feeds], rows)
            static, recorded = self._bucket(bucket_rows(rows))
            positions, mask = enter(feeds, cells), mask_of(feeds, self.cache.high, 1.0)
            self.cache.begin_at(static.written)
            count = static.load(feeds, cells, positions, mask)
            logits, total = self._put_out(static, recorded)
            if not math.isfinite(total.item()):
                raise LogitsError(
                    f"{self.class_name} returned NaN or infinite logits; the request was stopped, the engine is usable"
                )
            self.cache.end()
            return split(feeds, logits[:count].clone(), {})  # the next replay writes there

    def _put_out(self, static: StaticPass, recorded: Recorded | None) -> PutOut:
        if not self.records:
            return self._run_static(static)
        if recorded is None:
            recorded = self._record(lambda: self._run_static(static))
            self._passes[static.rows, static.cells] = static, recorded
        recorded.replay()
        return recorded.out

    def _bucket(self, rows: int) -> tuple[StaticPass, Recorded | None]:
        """The pass of a bucket of rows over the cells that are read now."""
        if self._passes and self._recorded_in != self._memory():
            self._forget()
        key = rows, self.cache.high
        if key not in self._passes:
            while len(self._passes) >= MOST_GRAPHS:
                self._passes.popitem(last=False)
            self._passes[key] = StaticPass(*key, self.device), None
        self._passes.move_to_end(key)
        return self._passes[key]

    def _memory(self) -> tuple[int, int]:
        """Where the cells lie, and how many there are: graphs point there."""
        first = self.cache.memory.tensors[0][0]
        return 0 if first is None else first.data_ptr(), self.cache.capacity

    def _forget(self) -> None:
        """Drop all graphs."""
        self._passes.clear()
        self._graphs, self._recorded_with, self._recorded_in = None, (), (0, 0)

    def _run_static(self, static: StaticPass) -> PutOut:
        """A pass over its buffers."""
        hidden = max(torch.finfo(self.dtype).min, torch.finfo(torch.float32).min)
        logits = self.call(
            input_ids=static.ids[None],
            attention_mask=static.hidden.to(self.dtype).mul_(hidden)[None, None],
            position_ids=static.positions[None],
            use_cache=True,
            logits_to_keep=static.wanted,
            **{self.cache_argument: self.cache},
        )[0]
        return logits, logits.sum(dtype=torch.float32)

    def _record(self, run: Callable[[], PutOut]) -> Recorded:
        """Record a pass. It runs once before: libraries choose their kernels then, and the pool gets its memory."""
        run()
        self._recorded_with, self._recorded_in = _recordable(self.model), self._memory()
        try:
            with _RECORDING:
                return self._captured(run)
        except (RuntimeError, ValueError) as error:
            self._forget()
            raise ModelError(
                f"{self.class_name} cannot be recorded in a CUDA graph ({first_line(error)}); write backend='torch'"
            ) from error

    def _captured(self, run: Callable[[], PutOut]) -> Recorded:
        self._graphs = self._graphs or torch.cuda.graph_pool_handle()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._graphs, capture_error_mode="thread_local"):
                out = run()
        finally:
            torch.cuda.set_stream(stream)  # which a recording that fails does not
        return Recorded(out, graph.replay)


def on_gpu(model: torch.nn.Module) -> CudaGraphModel:
    """The model behind recorded passes. Raises OptionError if it is not on a CUDA device, ModelError as the class does."""
    recording = CudaGraphModel(model)
    if not recording.records:
        raise OptionError(
            f"backend='cuda_graphs' records passes on a CUDA device, and {recording.model_name} is on {str(recording.device)!r}; "
            "write device='cuda', or backend='torch'"
        )
    return recording


def _recordable(model: torch.nn.Module) -> tuple[Any, ...]:
    """What a recorded pass depends on: where the weights lie, and which hooks run."""
    tensors = [*model.parameters(), *model.buffers()]
    hooks = [key for module in model.modules() for key in (*module._forward_pre_hooks, *module._forward_hooks)]
    return (tuple(tensor.data_ptr() for tensor in tensors), tuple(hooks))
