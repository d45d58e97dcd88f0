"""Who answers many prompts at once: draftgraph, transformers with padding, OpenVINO GenAI, economize."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import draftgraph as dg
from draftgraph.request.stats import PARTS

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Batch:
    """What came of the prompts of one call.

    ids     the new tokens of every request.
    rounds  target calls; None where nobody says.
    nodes   drafted rows that the target computed.
    waits   seconds to the first token of every request; empty where nobody says.
    gaps    seconds per token of every request after its first event, on average; empty where nobody says.
    parts   seconds that all requests were charged with by part of a round; empty where nobody says.
    """

    ids: list[list[int]]
    rounds: int | None = None
    nodes: int = 0
    waits: Sequence[float] = ()
    gaps: Sequence[float] = ()
    parts: Mapping[str, float] = field(default_factory=dict)


class Arrivals:
    """When the tokens of every request came, in seconds since all were asked for."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._seen: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)

    def note(self, request: int, tokens: int) -> None:
        """So many tokens of a request have come now; none is not noted."""
        if tokens:
            self._seen[request].append((time.perf_counter() - self._begun, tokens))

    @property
    def waits(self) -> list[float]:
        return [events[0][0] for events in self._seen.values()]

    @property
    def gaps(self) -> list[float]:
        """Of requests whose tokens did not all come at once. Tokens of one event share the time since the one before."""
        return [
            (events[-1][0] - events[0][0]) / sum(tokens for _, tokens in events[1:])
            for events in self._seen.values()
            if len(events) > 1
        ]


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
        arrivals = Arrivals()

        async def one(number: int, prompt: Sequence[int]) -> dg.Result:
            stream = self.engine.astream(list(prompt), max_new_tokens=tokens, ignore_eos=True)
            async for event in stream:
                arrivals.note(number, len(event.token_ids))
            return stream.result()

        batch = _batch(await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts))))
        return replace(batch, waits=arrivals.waits, gaps=arrivals.gaps)


def _batch(results: Sequence[dg.Result]) -> Batch:
    nodes = sum(result.stats.num_verified_nodes for result in results)
    rounds = sum(result.stats.num_rounds for result in results)
    parts = {part: sum(result.stats.seconds[part] for result in results) for part in PARTS}
    return Batch([result.token_ids for result in results], rounds, nodes, parts=parts)


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
        """What its `generate` does, step by step, so that the arrival of every token is seen."""
        import openvino

        self.config.max_new_tokens = tokens
        arrivals = Arrivals()
        inputs = [openvino.Tensor(np.array([list(prompt)], dtype=np.int64)) for prompt in prompts]
        handles = [self.pipeline.add_request(number, ids, self.config) for number, ids in enumerate(inputs)]
        ids: list[list[int]] = [[] for _ in prompts]
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            for number, handle in enumerate(handles):
                before = len(ids[number])
                while handle.can_read():
                    ids[number] += [int(token) for output in handle.read().values() for token in output.generated_ids]
                arrivals.note(number, len(ids[number]) - before)
        return Batch(ids, tokens * len(prompts), 0, arrivals.waits, arrivals.gaps)


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
