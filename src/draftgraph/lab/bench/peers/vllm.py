"""vLLM: plain. It reads the target's folder itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from draftgraph.lab.bench.contenders import Task
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.peers.base import Kind
from draftgraph.lab.turns import Answer, Contender


class Vllm:
    """One request at a time, in the type of the target, without its prompt cache.

    Written after its documentation; it has not been run by us, because its ordinary wheel needs a GPU.
    """

    def __init__(self, models: Models, paths: Sequence[Path], threads: int, drafted: int) -> None:
        import vllm

        options: dict[str, Any] = {
            "dtype": models.dtype_name,
            "enable_prefix_caching": False,
            "max_model_len": models.window,
        }
        self.plain = vllm.LLM(model=models.source, **options)

    def contenders(self, task: Task) -> list[Contender]:
        return [_Llm("vllm plain", self.plain, task)]


class _Llm:
    def __init__(self, name: str, llm: Any, task: Task) -> None:
        self.name, self.llm, self.task = name, llm, task

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        import vllm

        params = vllm.SamplingParams(
            max_tokens=self.task.tokens, temperature=self.task.temperature, ignore_eos=True, detokenize=False, seed=seed
        )
        out = self.llm.generate([{"prompt_token_ids": list(prompt)}], params, use_tqdm=False)
        ids = list(out[0].outputs[0].token_ids)
        return Answer(ids, len(ids), 0)


KIND = Kind(
    module="vllm",
    install="install its CPU build (docs.vllm.ai, Installation, CPU), or pip install vllm for a GPU",
    convert=None,
    note="vLLM, one request at a time, no prompt cache",
    load=Vllm,
)
