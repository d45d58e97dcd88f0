"""Who answers prompts for a training: our own batched engine, or on a GPU a step that is captured once per batch.

On a CPU the engine is several times faster (docs/training.md): its kernels read a prompt without padding, and requests that have
ended leave the batch. On a GPU a captured step of a thousand answers is bounded by the weights that it reads, not by launches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from draftgraph.engine.engine import Engine
from draftgraph.engine.serving import Serving
from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.generate import Asked, answer_all
from draftgraph.sampling.params import SamplingParams

Answering = Callable[[Sequence[Asked], int], list[Answer]]
"""answer(asked, seed) -> an answer for each, which the seed gives."""


def answering(
    target: PreTrainedModel,
    source: str | None,
    most: int,
    eos: Sequence[int],
    loading: dict[str, Any],
    batch: int = Serving.max_batch,
) -> Answering:
    """What answers prompts with at most `most` tokens each; ids in `eos` end an answer, and belong to it.

    batch    prompts that are answered at once. The engine begins another answer where one has ended.
    source   folder or hub name of the target, from which an engine loads what runs fastest; None: the engine runs `target`.
    loading  options of `Engine.from_pretrained` that go with a source.
    """
    if target.device.type == "cuda":
        return lambda asked, seed: _captured(target, asked, most, eos, seed, batch)
    alone: dict[str, Any] = {"budget": 0, "generation_config": GenerationConfig(), "max_batch": batch}
    engine = (
        Engine.from_pretrained(target, **alone)
        if source is None
        else Engine.from_pretrained(source, **alone, **loading)
    )
    return lambda asked, seed: answer_with(engine, asked, most, eos, seed)


def answer_with(engine: Engine, asked: Sequence[Asked], most: int, eos: Sequence[int], seed: int) -> list[Answer]:
    """The answers of an engine. Every answer has a number of its own beside the seed, so that no two share their noise."""
    params = [
        SamplingParams(
            max_new_tokens=most, temperature=at, seed=seed, sample=number, stop_token_ids=list(eos), ignore_eos=True
        )
        for number, (_, at) in enumerate(asked)
    ]
    results = engine.generate([list(prompt) for prompt, _ in asked], params)
    return [
        Answer(np.array([*prompt, *result.token_ids], dtype=np.int32), len(prompt), at)
        for (prompt, at), result in zip(asked, results, strict=True)
    ]


def _captured(
    target: PreTrainedModel, asked: Sequence[Asked], most: int, eos: Sequence[int], seed: int, batch: int
) -> list[Answer]:
    torch.manual_seed(seed)
    parts = [asked[first : first + batch] for first in range(0, len(asked), batch)]
    return [answer for part in parts for answer in answer_all(target, part, most, eos, captured=True)]
