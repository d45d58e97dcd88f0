"""Who answers in experiments.in_order: engines of ours, and OpenVINO GenAI's plain decoding and prompt lookup.

Everybody is timed alike: from the first token that comes, when the prompt has been read, to the last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import draftgraph as dg

SEED = 1
GENAI_DRAFTED, GENAI_NGRAM = 5, 3
"""Tokens that GenAI looks up, and of a match, as in its documentation."""


@dataclass(frozen=True)
class Said:
    """An answer. tokens, rounds, seconds, core  those behind the tokens that came first; None rounds: nobody tells.

    core  seconds of cores. decisions  how many rounds were of which kind, of our engines.
    """

    ids: list[int]
    tokens: int
    rounds: int | None
    seconds: float
    core: float
    decisions: dict[str, int] = field(default_factory=dict)


class Way(Protocol):
    """Whoever continues token ids by `tokens` new ones, or up to an end of text."""

    def say(self, prompt: Sequence[int], temperature: float, tokens: int) -> Said: ...


class Clock:
    """Starts with the first tokens that it hears of."""

    def __init__(self) -> None:
        self.first, self.begun, self.used = 0, 0.0, 0.0

    def hear(self, tokens: int) -> None:
        if not self.first:
            self.first, self.begun, self.used = tokens, time.perf_counter(), time.process_time()

    def passed(self) -> tuple[float, float]:
        return time.perf_counter() - self.begun, time.process_time() - self.used


class Ours:
    """An engine, streaming."""

    def __init__(self, engine: dg.Engine) -> None:
        self.engine = engine

    def say(self, prompt: Sequence[int], temperature: float, tokens: int) -> Said:
        clock = Clock()
        stream = self.engine.stream(prompt, max_new_tokens=tokens, temperature=temperature, seed=SEED)
        for event in stream:
            clock.hear(len(event.token_ids))
        passed, result = clock.passed(), stream.result()
        later = result.rounds[1:]
        decisions = {name: sum(r.decision == name for r in later) for name in {r.decision for r in later}}
        return Said(result.token_ids, sum(r.emitted for r in later), len(later), *passed, decisions)


class GenAi:
    """A pipeline of OpenVINO GenAI: plain, or with its prompt lookup. Keys and values have the precision of everything else."""

    def __init__(self, folder: Path, threads: int, precision: str, looked_up: bool) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "KV_CACHE_PRECISION": precision,
            "INFERENCE_NUM_THREADS": threads,
            "scheduler_config": scheduler,
        }
        if looked_up:
            options["prompt_lookup"] = True
        self.pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", **options)
        self.config = openvino_genai.GenerationConfig()
        self.config.apply_chat_template = False
        self.config.rng_seed = SEED
        if looked_up:
            self.config.num_assistant_tokens, self.config.max_ngram_size = GENAI_DRAFTED, GENAI_NGRAM

    def say(self, prompt: Sequence[int], temperature: float, tokens: int) -> Said:
        import openvino
        import openvino_genai

        clock = Clock()

        class Listener(openvino_genai.StreamerBase):
            def write(self, heard: int | Sequence[int]) -> Any:
                clock.hear(1 if isinstance(heard, int) else len(heard))
                return openvino_genai.StreamingStatus.RUNNING

            def end(self) -> None: ...

        self.config.max_new_tokens, self.config.do_sample = tokens, temperature > 0
        if temperature > 0:
            self.config.temperature = temperature
        ids = np.array([list(prompt)], dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        new = [int(token) for token in self.pipeline.generate(inputs, self.config, Listener()).tokens[0]]
        return Said(new, len(new) - clock.first, None, *clock.passed())
