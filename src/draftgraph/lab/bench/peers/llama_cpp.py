"""llama.cpp through llama-cpp-python: plain, and with a drafter that proposes a constant number of tokens greedily."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from draftgraph.lab.bench.contenders import Task
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.peers.base import Kind
from draftgraph.lab.turns import Answer, Contender

_F32 = 0
"""The number of the type float32 in ggml."""


class LlamaCpp:
    """Files in the GGUF format; in float32, the KV cache is as well (as shipped, it would be float16).

    The binding verifies greedy drafts by sampling at every drafted position, which is lossless.
    """

    def __init__(self, models: Models, paths: Sequence[Path], threads: int, drafted: int) -> None:
        import llama_cpp

        options: dict[str, Any] = {
            "n_threads": threads,
            "n_threads_batch": threads,
            "verbose": False,
            "n_gpu_layers": 0,
        }
        options["n_ctx"] = models.window or 0  # 0: the file's own
        if models.dtype is torch.float32:
            options |= {"type_k": _F32, "type_v": _F32}
        self.drafted = drafted
        self.plain = llama_cpp.Llama(str(paths[0]), **options)
        self.assisted: Any = None
        if len(paths) > 1:
            self.draft = _Draft(llama_cpp.Llama(str(paths[1]), **options), drafted)
            self.assisted = llama_cpp.Llama(str(paths[0]), draft_model=self.draft, logits_all=True, **options)

    def contenders(self, task: Task) -> list[Contender]:
        found: list[Contender] = [_Model("llama.cpp plain", self.plain, task)]
        if self.assisted is not None:
            name = f"llama.cpp assisted (constant {self.drafted})"
            found.append(_Model(name, self.assisted, task, self.draft))
        return found


class _Draft:
    """The greedy continuation by a drafter, whose cache keeps the text so far. calls, drafted  since the last reset."""

    def __init__(self, model: Any, tokens: int) -> None:
        self.model, self.tokens = model, tokens
        self.calls = self.drafted = 0

    def reset(self) -> None:
        self.model.reset()
        self.calls = self.drafted = 0

    def __call__(self, input_ids: Any, /, **kwargs: Any) -> Any:
        room = min(self.tokens, self.model.n_ctx() - len(input_ids))
        tokens = list(islice(self.model.generate(input_ids.tolist(), temp=0.0), max(0, room)))
        self.calls += 1
        self.drafted += len(tokens)
        return np.array(tokens, dtype=np.intc)


class _Model:
    def __init__(self, name: str, model: Any, task: Task, draft: _Draft | None = None) -> None:
        self.name, self.model, self.task, self.draft = name, model, task, draft

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        self.model.reset()  # else it would start from what it has in common with the last prompt
        if self.draft is not None:
            self.draft.reset()
        self.model.set_seed(seed % 2**32)
        new = self.model.generate(list(prompt), top_k=0, top_p=1.0, min_p=0.0, temp=self.task.temperature)
        ids = [int(token) for token in islice(new, self.task.tokens)]
        if self.draft is None:
            return Answer(ids, len(ids), 0)
        return Answer(ids, 1 + self.draft.calls, self.draft.drafted)


KIND = Kind(
    module="llama_cpp",
    install="pip install llama-cpp-python (compiles for some minutes)",
    convert=(
        "python convert_hf_to_gguf.py MODEL --outtype f32 --outfile FILE.gguf (a script of the llama.cpp repository)"
    ),
    note="llama.cpp through llama-cpp-python on the CPU, KV cache in float32 if the target is, no prompt cache",
    load=LlamaCpp,
)
