"""OpenVINO GenAI: plain, and with a drafter (a constant number of tokens)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from draftgraph.errors import OptionError
from draftgraph.lab.bench.contenders import Task
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.peers.base import Kind
from draftgraph.lab.turns import Answer, Contender

_PRECISION = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


class OpenVino:
    """Pipelines on the CPU, in the precision of the target, KV cache included (as shipped, the cache would be 8 bits).

    Prompts are not cached between runs, as with everybody else.
    """

    def __init__(self, models: Models, paths: Sequence[Path], threads: int, drafted: int) -> None:
        import openvino_genai

        precision = _PRECISION.get(models.dtype)
        if precision is None:
            raise OptionError(f"it has no {models.dtype_name}; write --dtype float32")
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "KV_CACHE_PRECISION": precision,
            "INFERENCE_NUM_THREADS": threads,
        }

        def pipeline(**more: Any) -> Any:
            scheduler = openvino_genai.SchedulerConfig()
            scheduler.enable_prefix_caching = False
            return openvino_genai.LLMPipeline(str(paths[0]), "CPU", scheduler_config=scheduler, **options, **more)

        self.plain, self.assisted, self.drafted = pipeline(), None, drafted
        if len(paths) > 1:
            self.assisted = pipeline(draft_model=openvino_genai.draft_model(str(paths[1]), "CPU", **options))

    def contenders(self, task: Task) -> list[Contender]:
        found: list[Contender] = [_Pipeline("openvino plain", self.plain, task)]
        if self.assisted is not None:
            name = f"openvino assisted (constant {self.drafted})"
            found.append(_Pipeline(name, self.assisted, task, self.drafted))
        return found


class _Pipeline:
    def __init__(self, name: str, pipeline: Any, task: Task, drafted: int = 0) -> None:
        import openvino_genai

        self.name, self.pipeline, self.drafted = name, pipeline, drafted
        self.config = openvino_genai.GenerationConfig()
        self.config.max_new_tokens = task.tokens
        self.config.ignore_eos = True
        self.config.apply_chat_template = False
        self.config.do_sample = task.temperature > 0
        if task.temperature > 0:
            self.config.temperature = task.temperature
        if drafted:
            self.config.num_assistant_tokens = drafted

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        import openvino
        import openvino_genai

        ids = np.array([list(prompt)], dtype=np.int64)
        self.config.rng_seed = seed
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        result = self.pipeline.generate(inputs, self.config)
        new = [int(token) for token in result.tokens[0]]
        if not self.drafted:
            return Answer(new, len(new), 0)
        counts = result.extended_perf_metrics
        calls = counts.main_model_metrics.raw_metrics.m_batch_sizes  # the tokens that every call of the target added
        return Answer(new, len(calls), counts.get_num_draft_tokens())


KIND = Kind(
    module="openvino_genai",
    install="pip install openvino-genai",
    convert=(
        "optimum-cli export openvino --model MODEL --task text-generation-with-past --weight-format fp32 FOLDER "
        "(pip install optimum-intel, in an environment of its own if it wants another transformers)"
    ),
    note="OpenVINO GenAI on the CPU, KV cache in the precision of the target, no prompt cache",
    load=OpenVino,
)
