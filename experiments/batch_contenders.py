"""Who answers many prompts at once: draftgraph, transformers with padding, OpenVINO GenAI, economize."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import draftgraph as dg

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Batch:
    """What came of the prompts of one call.

    ids     the new tokens of every request.
    rounds  target calls; None where nobody says.
    nodes   drafted rows that the target computed.
    waits   seconds to the first token of every request; empty where nobody says.
    """

    ids: list[list[int]]
    rounds: int | None = None
    nodes: int = 0
    waits: Sequence[float] = ()


class BatchContender(Protocol):
    """A way to continue several prompts by as many tokens each, greedily."""

    @property
    def name(self) -> str: ...

    def answers(self, prompts: Prompts, tokens: int) -> Batch: ...


@dataclass(frozen=True)
class Ours:
    """`engine.generate` of a list."""

    name: str
    engine: dg.Engine

    def answers(self, prompts: Prompts, tokens: int) -> Batch:
        params = dg.SamplingParams(max_new_tokens=tokens, ignore_eos=True)
        return _batch(self.engine.generate([list(prompt) for prompt in prompts], params))


@dataclass(frozen=True)
class Streamed:
    """`engine.astream` of every prompt at once, as a server has it."""

    name: str
    engine: dg.Engine

    def answers(self, prompts: Prompts, tokens: int) -> Batch:
        return asyncio.run(self._all(prompts, tokens))

    async def _all(self, prompts: Prompts, tokens: int) -> Batch:
        begun, waits = time.perf_counter(), []

        async def one(prompt: Sequence[int]) -> dg.Result:
            stream = self.engine.astream(list(prompt), max_new_tokens=tokens, ignore_eos=True)
            await anext(stream)
            waits.append(time.perf_counter() - begun)
            async for _ in stream:
                pass
            return stream.result()

        batch = _batch(await asyncio.gather(*map(one, prompts)))
        return Batch(batch.ids, batch.rounds, batch.nodes, waits)


def _batch(results: Sequence[dg.Result]) -> Batch:
    nodes = sum(result.stats.num_verified_nodes for result in results)
    return Batch([result.token_ids for result in results], sum(result.stats.num_rounds for result in results), nodes)


class Padded:
    """transformers' batched generate, with padding on the left."""

    name = "transformers plain, padded"

    def __init__(self, folder: str | Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def answers(self, prompts: Prompts, tokens: int) -> Batch:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        shown = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        more = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
        text = self.model.generate(ids, attention_mask=shown, **more)
        return Batch(text[:, longest:].tolist(), tokens * len(prompts))


class GenAI:
    """OpenVINO GenAI's continuous batching, without drafts; keys and values in float32, no prompt is cached between calls."""

    name = "openvino-genai plain, continuous batching"

    def __init__(self, folder: str | Path, threads: int) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_seqs = 64
        properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            "INFERENCE_NUM_THREADS": threads,
        }
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
        self.config = openvino_genai.GenerationConfig()
        self.config.ignore_eos = True
        self.config.apply_chat_template = False

    def answers(self, prompts: Prompts, tokens: int) -> Batch:
        import openvino

        self.config.max_new_tokens = tokens
        inputs = [openvino.Tensor(np.array([list(prompt)], dtype=np.int64)) for prompt in prompts]
        results = self.pipeline.generate(inputs, [self.config] * len(inputs))
        waits = [result.perf_metrics.get_ttft().mean / 1e3 for result in results]
        ids = [[int(token) for token in result.m_generation_ids[0]] for result in results]
        return Batch(ids, tokens * len(prompts), 0, waits)


class EconomizeBatch:
    """economize's `decode_batch`, with its lookup or the pair's drafter."""

    def __init__(self, folder: str | Path, drafter: str | Path | None, drafted: int) -> None:
        import economize
        from economize.techniques.draft_model import DraftModelConfig
        from economize.techniques.lookup import LookupConfig

        technique: Any = LookupConfig() if drafter is None else DraftModelConfig(model=str(drafter), dtype="float32")
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model = economize.apply(base, technique)
        self.config = economize.DecodeConfig(cycle_length=drafted + 1)
        self.name = f"economize, {'lookup' if drafter is None else 'drafter'} of {drafted}"

    def answers(self, prompts: Prompts, tokens: int) -> Batch:
        rows = [torch.tensor(list(prompt)) for prompt in prompts]
        results = self.model.decode_batch(rows, tokens, decoding=self.config)
        return Batch([result.tokens.tolist()[:tokens] for result in results])
