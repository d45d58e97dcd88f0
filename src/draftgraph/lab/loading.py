"""Models of a question, loaded once, and checked as an engine checks them. The lab runs them beside the engine as well."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from draftgraph.backends.load import check_pair, find_tokenizer, load_model, load_tokenizer
from draftgraph.backends.trained import find_trained
from draftgraph.backends.wrapped import opened
from draftgraph.engine.engine import Engine


@dataclass(frozen=True)
class Loaded:
    """A target, and a drafter if there is one that is a model of its own. A trained one was checked.

    vocab   tokens of the target.
    window  positions that all models can read; None if none says.
    """

    target: PreTrainedModel
    drafter: PreTrainedModel | None
    tokenizer: Any | None
    vocab: int
    window: int | None


def load(
    target: str | Path | PreTrainedModel,
    drafter: str | Path | PreTrainedModel | None,
    dtype: str | None,
    device: str | None,
    trusted: bool,
) -> Loaded:
    """Models from folders, hub names, or loaded ones. trusted  whether their own code may run.

    Raises ModelError or PairError if the engine could not run them.
    """
    model = opened(load_model(target, dtype, device, trusted)).model
    tokenizer = find_tokenizer(None, target, trusted)
    trained = find_trained(drafter) is not None
    draft_model = None if drafter is None or trained else opened(load_model(drafter, dtype, device, trusted)).model
    asked = drafter if trained else draft_model
    engine = Engine.from_pretrained(model, draft_model=asked, tokenizer=tokenizer, budget=0)
    if drafter is not None and not trained:  # by its own files, which a loaded model of the hub no longer names
        check_pair(engine.target, engine.drafter.model, tokenizer, load_tokenizer(drafter, trusted))
    backends = [backend for backend in (engine.target, engine.drafter.model) if backend is not None]
    windows = [backend.context_window for backend in backends if backend.context_window is not None]
    return Loaded(model, draft_model, tokenizer, engine.target.vocab_size, min(windows, default=None))
