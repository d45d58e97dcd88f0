"""Who is measured: ways to continue a prompt by the same number of tokens, all on the same weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, PreTrainedModel

from draftgraph.backends.choice import TORCH
from draftgraph.engine.config import WITHOUT_MODEL
from draftgraph.engine.engine import Engine
from draftgraph.lab.turns import Answer, answer_of
from draftgraph.sampling.params import SamplingParams

PLAIN = "transformers plain"
"""The contender that everybody's time is divided by, and whose greedy text everybody must reproduce."""
AGAIN = f"{PLAIN}, again"
"""The same once more in every turn: how far its speed-up strays from 1 is how far to trust the others."""

_KEPT = (
    "bos_token_id",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
)
"""What a checkpoint's generation configuration may still say here: how it assists, not how it samples."""


@dataclass(frozen=True)
class Task:
    """What everybody has to do: `tokens` new tokens at `temperature` (0 is greedy), nothing truncated or penalised."""

    temperature: float
    tokens: int


class Weights(Protocol):
    """Models that are loaded once, for all contenders.

    made_of  what engines are made of, target and drafter, and how they load it; None: the loaded models.
    """

    @property
    def target(self) -> PreTrainedModel: ...
    @property
    def drafter(self) -> PreTrainedModel | None: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def made_of(self) -> tuple[Any, Any, Mapping[str, Any]] | None: ...


def endless(model: PreTrainedModel, **settings: Any) -> PreTrainedModel:
    """The same weights under another generation configuration: no end of a text, no sampling options, and `settings`.

    A checkpoint may bring its own penalties and truncation, which `generate` mixes into every configuration that does not
    contradict; here everybody samples alike. (`generate(generation_config=...)` cannot say so: None there means "as the model's
    own configuration".) The copy is shallow, so parameters and hooks are shared with `model`, whose own configuration stays.
    """
    own = model.generation_config
    other = copy.copy(model)
    other.generation_config = GenerationConfig(**{name: getattr(own, name, None) for name in _KEPT})
    other.generation_config.update(**settings)
    return other


class Transformers:
    """`model.generate` of transformers: plain, with `assistant_model`, or with `prompt_lookup_num_tokens`."""

    def __init__(
        self, name: str, target: PreTrainedModel, task: Task, assistant: PreTrainedModel | None = None, **options: Any
    ) -> None:
        self.name, self.target, self.assistant = name, target, assistant
        if task.temperature > 0:  # top_k=0: transformers would keep 50 tokens by default
            options |= {"do_sample": True, "temperature": task.temperature, "top_k": 0, "top_p": 1.0}
        else:
            options |= {"do_sample": False}
        self.config = GenerationConfig(max_new_tokens=task.tokens, pad_token_id=0, **options)

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        ids = torch.tensor([list(prompt)], device=self.target.device)
        torch.manual_seed(seed)
        speculating = {"assistant_model": self.assistant} if self.assistant is not None else {}
        with _counted(self.target) as rows:
            out = self.target.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=self.config, **speculating
            )
        # The first call reads the prompt, every later one the token before; the other rows are drafted.
        return Answer(out[0, len(prompt) :].tolist(), len(rows), sum(rows) - len(prompt) - (len(rows) - 1))


@contextmanager
def _counted(model: PreTrainedModel) -> Iterator[list[int]]:
    """The number of rows of every forward pass. The hook costs microseconds, a pass milliseconds."""
    rows: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        yield rows
    finally:
        hook.remove()


class Ours:
    """One engine. Its text is detokenised as it comes, which transformers' runs do not do; that counts against us."""

    def __init__(self, name: str, pair: Weights, task: Task, **options: Any) -> None:
        """options  fields of `draftgraph.Config`, `backend`, `weights` and `draft_weights`; without a `drafter` among them the
        pair's drafts.

        Raises OptionError for a configuration that cannot draft, or whose rule does not verify its drafts.
        """
        self.name = name
        trained = pair.made_of[1] if pair.made_of is not None and pair.drafter is None else None
        loaded: tuple[Any, Any, Mapping[str, Any]] = (pair.target, trained or pair.drafter, {})
        target, drafter, loading = pair.made_of or loaded
        if options.get("backend", loading.get("backend")) == TORCH:  # which has them already
            target, drafter, loading = loaded
        if options.get("drafter") in WITHOUT_MODEL:
            drafter = None
        options |= {"tokenizer": pair.tokenizer, "generation_config": GenerationConfig()}  # as `endless` does
        options = {**loading, **options}
        self.engine = Engine.from_pretrained(target, draft_model=drafter, **options)
        self.params = SamplingParams(max_new_tokens=task.tokens, temperature=task.temperature, ignore_eos=True)
        self.lossless = self.engine.choice(self.params).rule.lossless and options.get("weights") is None

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        return answer_of(self.engine, prompt, self.params, seed)
