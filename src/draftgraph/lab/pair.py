"""A target and a drafter, loaded and checked once; engines of any configuration share their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from draftgraph.backends.base import CausalLM
from draftgraph.backends.recurrent_model import reads_one_path
from draftgraph.engine.engine import Engine
from draftgraph.errors import OptionError
from draftgraph.lab.loading import load

WINDOW = 256
"""Tokens of a window of natural text, and of prompt and continuation together, at most."""
PROMPT = 16
"""Tokens of a given text that the target continues."""


@dataclass(frozen=True)
class Pair:
    """drafter  None: a trained one, which engines are made of but which has no laws without its target.

    vocab  tokens of the target. window  positions that both models can read, WINDOW at most.

    made_of  what engines are made of instead, target and drafter, and how they load it; None: the loaded models.
    """

    target: PreTrainedModel
    drafter: PreTrainedModel | None
    tokenizer: Any | None
    vocab: int
    window: int
    made_of: tuple[Any, Any, Mapping[str, Any]] | None = None

    @property
    def branches(self) -> bool:
        """Whether drafts may branch."""
        return not any(reads_one_path(model) for model in (self.target, self.drafter) if model is not None)

    @classmethod
    def load(
        cls,
        target: str | Path | PreTrainedModel,
        drafter: str | Path | PreTrainedModel,
        dtype: str | None = None,
        device: str | None = None,
        trusted: bool = False,
        made_with: Mapping[str, Any] | None = None,
    ) -> Pair:
        """A pair from folders, hub names or loaded models. trusted  whether their own code may run.

        made_with  how engines load both, from the same sources; None: they get the loaded models.

        Raises ModelError or PairError if the engine could not run it, OptionError for a trained drafter.
        """
        models = load(target, drafter, dtype, device, trusted)
        if models.drafter is None:
            raise OptionError(
                f"{str(drafter)!r} is a trained drafter, which has laws beside its target only; `draftgraph doctor` measures it"
            )
        window = WINDOW if models.window is None else min(WINDOW, models.window)
        made_of = None if made_with is None else (target, drafter, made_with)
        return cls(models.target, models.drafter, models.tokenizer, models.vocab, window, made_of)

    @cached_property
    def backends(self) -> tuple[CausalLM, CausalLM]:
        """What runs target and drafter in engines."""
        engine = self.engine(budget=0)
        assert engine.drafter.model is not None, "a draft model was given"
        return engine.target, engine.drafter.model

    def engine(self, **options: Any) -> Engine:
        """An engine for these weights, whatever their generation config says; `options` are those of `Config`."""
        options |= {"tokenizer": self.tokenizer, "generation_config": GenerationConfig()}
        target, drafter, loading = self.made_of or (self.target, self.drafter, {})
        return Engine.from_pretrained(target, draft_model=drafter, **options, **loading)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts. Raises OptionError without a tokenizer."""
        if self.tokenizer is None:
            raise OptionError("the target has no tokenizer files, so texts cannot be read; add them to its folder")
        return [list(self.tokenizer(text)["input_ids"]) for text in texts]

    def prompts(self, count: int, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """What the target continues: the beginnings of texts (token ids) in turn; without texts the start token alone.

        Raises OptionError if there is neither.
        """
        if texts:
            return [list(texts[i % len(texts)][:PROMPT]) for i in range(count)]
        for source in (self.tokenizer, self.target.generation_config, self.target.config):
            start = getattr(source, "bos_token_id", None)
            if start is not None:
                return [[int(start)]] * count
        raise OptionError(
            "the target has no start token to begin texts with; give the beginnings of texts with --text FILE"
        )
