"""A pass that fails has entered nothing, and is repeated request by request, so that only the guilty one is told."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from converted import converted, decode, lm
from draftgraph.backends.base import CausalLM, Feed, Scored
from draftgraph.backends.cuda_graphs import CudaGraphModel
from draftgraph.backends.openvino.pool import CELLS
from draftgraph.backends.recurrent_model import RecurrentModel
from draftgraph.backends.together import forward_each
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import LogitsError
from draftgraph.types import ROOT
from models import tiny_lm
from recurrent import recurrent

CLOSE = 1e-4
WINDOWED = {"num_key_value_heads": 2, "sliding_window": 12}


@cache
def windowed() -> PreTrainedModel:
    return tiny_lm("mistral", window=1500, **WINDOWED)


def openvino(bitwise: bool) -> tuple[CausalLM, PreTrainedModel]:
    pytest.importorskip("openvino")
    model = converted()
    return (model.bitwise() if bitwise else model), lm()


MODELS: dict[str, Callable[[], tuple[CausalLM, PreTrainedModel]]] = {
    "torch": lambda: (TorchModel(lm()), lm()),
    "windows": lambda: (TorchModel(windowed()), windowed()),
    "static": lambda: (CudaGraphModel(lm()), lm()),
    "openvino": lambda: openvino(False),
    "bitwise": lambda: openvino(True),
}


class Faulty:
    """Every other pass, at random, is tried twice: the first time it fails after it has written everything."""

    def __init__(self, model: CausalLM, choose: Callable[[int], int]) -> None:
        self.model, self.choose, self.failures = model, choose, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        if self.choose(2):
            before = [(len(feed.text), len(feed.text.nodes)) for feed in feeds]
            with pytest.MonkeyPatch.context() as patch:
                spoil(patch, self.model)
                with pytest.raises(LogitsError):
                    self.model.forward(feeds)
            assert [(len(feed.text), len(feed.text.nodes)) for feed in feeds] == before
            self.failures += 1
        return self.model.forward(feeds, taps)


def spoil(patch: pytest.MonkeyPatch, model: Any) -> None:
    """Let passes write NaN for keys and values, and give NaN."""
    if isinstance(model, TorchModel):
        whole = model.call

        def call(**inputs: Any) -> torch.Tensor:
            rows = whole(**inputs) * torch.nan
            for layer in model.cache.memory.tensors:
                for held in layer:
                    assert held is not None
                    held[:, :, model.cache.written] = torch.nan
            return rows

        patch.setattr(model, "call", call)
        return
    run, output = model._compiled.run, model._compiled.output

    def spoiled(inputs: Any) -> None:
        run(inputs)
        starts, begins = list(inputs["subsequence_begins"]), list(inputs["block_indices_begins"])
        for i, past in enumerate(inputs["past_lens"]):
            blocks = inputs["block_indices"][begins[i] : begins[i + 1]]
            for cell in range(past, past + starts[i + 1] - starts[i]):
                for memory in model.pool._memory:
                    memory[:, blocks[cell // CELLS], :, cell % CELLS] = float("nan")

    patch.setattr(model._compiled, "run", spoiled)
    patch.setattr(model._compiled, "output", lambda *name: output(*name) * float("nan"))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rows_after_failed_passes_are_those_of_plain_forwards(kind: str, seed: int) -> None:
    """Over several passes a round, wide holes, windows and kept paths that were overwritten."""
    model, truth = MODELS[kind]()
    choose = random.Random(seed).randrange
    faulty: Any = Faulty(model, choose)
    assert decode(faulty, truth, [5, 31, 40], choose, rounds=4) < CLOSE
    assert faulty.failures > 2
    pool: Any = model.pool if hasattr(model, "pool") else model.cache  # type: ignore[attr-defined]
    assert not (pool.used() if hasattr(pool, "used") else {cell for cell in pool._used if kind != "static" or cell})


def poisoned(family: str | None) -> tuple[TorchModel, int]:
    """A model whose rows are NaN wherever a pass reads one token, and that token."""
    model: Any = tiny_lm() if family is None else recurrent(family)
    with torch.no_grad():
        model.get_input_embeddings().weight[9] = torch.nan
    return (TorchModel(model) if family is None else RecurrentModel(model)), 9


@torch.inference_mode()
@pytest.mark.parametrize("family", [None, "olmo_hybrid"])
def test_only_who_fed_what_fails_gets_the_error(family: str | None) -> None:
    model, bad = poisoned(family)
    texts = [model.open(20) for _ in range(4)]
    feeds = [Feed(text, [3, 4, 5 + i], [6, 7], [ROOT, 0]) for i, text in enumerate(texts)]
    feeds[2] = Feed(texts[2], [3, bad], [6], [ROOT])
    found = forward_each(model, feeds)
    assert [isinstance(each, LogitsError) for each in found] == [False, False, True, False]
    assert (len(texts[2]), texts[2].nodes) == (0, [])
    for i in (0, 1, 3):
        alone = model.open(20)
        (expected,) = model.forward([Feed(alone, [3, 4, 5 + i], [6, 7], [ROOT, 0])])
        rows = found[i]
        assert isinstance(rows, Scored)
        torch.testing.assert_close(rows.logits, expected.logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_one_pass_where_nothing_fails_and_interrupts_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TorchModel(tiny_lm())
    passes: list[int] = []
    whole = model.forward
    monkeypatch.setattr(model, "forward", lambda feeds, taps: passes.append(len(feeds)) or whole(feeds, taps))
    texts = [model.open(9) for _ in range(3)]
    assert len(forward_each(model, [Feed(text, [1, 2]) for text in texts])) == 3
    assert passes == [3]

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "call", interrupt)
    with pytest.raises(KeyboardInterrupt):
        forward_each(model, [Feed(text, [4]) for text in texts])
    assert [len(text) for text in texts] == [2, 2, 2]
