"""What the GPU experiment measures on: peaked pairs in two sizes, each behind an eager backend and behind one with graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import draftgraph as dg
from draftgraph.backends.base import CacheHandle, Feed
from draftgraph.backends.cuda_graphs import CudaGraphModel
from draftgraph.backends.prefill import read
from draftgraph.backends.torch_model import TorchModel
from draftgraph.draft.model import ModelDrafter
from draftgraph.lab.turns import Answer, answer_of
from draftgraph.types import ROOT
from experiments.peaked import Language, Shape, random_model, teach

EAGER, GRAPHS = "eager", "graphs"
SHAPES = {
    "1B": Shape(128256, 2048, 8192, 16, 32, 8),
    "8B": Shape(128256, 4096, 14336, 32, 32, 8),
    "drafter": Shape(128256, 512, 2048, 8, 8, 8),
}
"""Of Llama 3.2 1B and 3.1 8B, with heads of their own; the drafter reads 97 million weights per pass."""
TINY = {
    "1B": Shape(2048, 128, 256, 2, 4, 2, 4096),
    "8B": Shape(2048, 192, 384, 3, 4, 2, 4096),
    "drafter": Shape(2048, 64, 128, 2, 2, 2, 4096),
}
WARMED_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
MOST_TIMES = 30


@dataclass
class Size:
    """A target with a drafter, and what runs them. targets, drafters  by name of the backend."""

    name: str
    language: Language
    target: Any
    drafter: Any
    targets: Mapping[str, TorchModel]
    drafters: Mapping[str, TorchModel]

    def agree(self, agreement: float, **how: float) -> None:
        """Turn the dial."""
        teach(self.target, self.language, **how)
        teach(self.drafter, self.language.misheard(agreement), **how)

    def engine(self, backend: str, **options: Any) -> dg.Engine:
        target, drafter = self.targets[backend], self.drafters[backend]
        config = dg.Config(**options)
        return dg.Engine(target, ModelDrafter(drafter, target.vocab_size), config, None, frozenset())


@dataclass
class Stage:
    """Models and device of one run. Models are made when they are first asked for, on the device."""

    device: torch.device
    quick: bool
    dtype: torch.dtype = torch.bfloat16
    bandwidth: float = 0.0  # bytes per second, once it was measured
    _sizes: dict[str, Size] = field(default_factory=dict)

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return TINY if self.quick else SHAPES

    def size(self, name: str) -> Size:
        if name not in self._sizes:
            target = random_model(self.shapes[name], self.dtype, self.device, seed=0)
            drafter = random_model(self.shapes["drafter"], self.dtype, self.device, seed=1)
            targets, drafters = ({EAGER: TorchModel(m), GRAPHS: CudaGraphModel(m)} for m in (target, drafter))
            language = Language.random(self.shapes[name].vocab, self.device)
            self._sizes[name] = Size(name, language, target, drafter, targets, drafters)
            self._sizes[name].agree(0.8)
        return self._sizes[name]

    def prompts(self, count: int, length: int, vocab: int) -> list[list[int]]:
        draw = torch.Generator().manual_seed(7)
        return torch.randint(1, vocab, (count, length), generator=draw).tolist()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Ours:
    """An engine that takes turns."""

    name: str
    engine: dg.Engine
    params: dg.SamplingParams

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        return answer_of(self.engine, prompt, self.params, seed)


@dataclass(frozen=True)
class Transformers:
    """`model.generate` of transformers, greedy, without anything of ours."""

    name: str
    model: Any
    tokens: int

    @torch.inference_mode()
    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        ids = torch.tensor([list(prompt)], device=self.model.device)
        asked = {"max_new_tokens": self.tokens, "do_sample": False, "pad_token_id": 0}
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), **asked)
        return Answer(out[0, len(prompt) :].tolist(), self.tokens, 0)


@torch.inference_mode()
def context(model: TorchModel, tokens: int) -> CacheHandle:
    """A request of `model` that has read so many tokens."""
    draw = torch.Generator().manual_seed(3)
    text = model.open(tokens + 512)
    read(model, text, torch.randint(1, model.vocab_size, (tokens,), generator=draw).tolist())
    return text


@torch.inference_mode()
def pass_ms(stage: Stage, model: TorchModel, text: CacheHandle, rows: int, seconds: float) -> dict[str, float]:
    """Milliseconds of one pass over so many siblings behind a text: on the wall, and alone on the device where it is recorded."""
    tokens, parents = [5] * rows, [ROOT] * rows

    def once() -> None:
        model.forward([Feed(text, (), tokens, parents)])
        model.keep(text, ())

    stage.synchronize()
    begun = time.perf_counter()
    once()
    first = time.perf_counter() - begun
    found = {"first_ms": 1e3 * first, "wall_ms": 1e3 * median_seconds(stage, once, seconds)}
    recorded = model.recorded(rows) if isinstance(model, CudaGraphModel) else None
    if recorded is not None:
        found["device_ms"] = 1e3 * _burst(stage, recorded.replay)
    return found


def median_seconds(stage: Stage, once: Callable[[], object], seconds: float, warm: int = 2) -> float:
    """Of repeated calls, each waited for."""
    for _ in range(warm):
        once()
    stage.synchronize()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < MOST_TIMES and (len(taken) < 3 or time.perf_counter() < until):
        begun = time.perf_counter()
        once()
        stage.synchronize()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _burst(stage: Stage, replay: Callable[[], None], count: int = 10) -> float:
    """Seconds of one replay among several without a pause."""
    replay()
    stage.synchronize()
    begun = time.perf_counter()
    for _ in range(count):
        replay()
    stage.synchronize()
    return (time.perf_counter() - begun) / count


@torch.inference_mode()
def warm(model: TorchModel) -> None:
    """Record the passes of short requests, so that no timed run has to."""
    text = context(model, 1)
    for rows in WARMED_ROWS:
        model.forward([Feed(text, (), [5] * rows, [ROOT] * rows)])
        model.keep(text, ())
    model.close(text)


def bytes_read(model: Any) -> int:
    """Bytes of weights that a pass reads at least: all but the embedding, of which it reads a few rows."""
    return sum(w.numel() * w.element_size() for w in model.parameters()) - model.get_input_embeddings().weight.nbytes
