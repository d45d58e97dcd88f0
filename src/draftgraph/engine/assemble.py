"""Parts to an engine: the drafter that was asked for, checked against its target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from draftgraph.backends.load import check_pair, load_model, load_tokenizer
from draftgraph.backends.torch_model import HFModel, probe
from draftgraph.config import Config
from draftgraph.draft.base import Drafter
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.model import ModelDrafter
from draftgraph.errors import OptionError


def make_drafter(
    target: HFModel,
    draft_model: str | Path | PreTrainedModel | None,
    config: Config,
    tokenizer: Any | None,
    dtype: str | torch.dtype | None,
    device: str | None,
    trust_remote_code: bool = False,
) -> tuple[Drafter, int | None]:
    """The drafter that the config asks for, and its context window (None if it has none)."""
    if draft_model is None:
        return LookupDrafter(config, _prediction(target, config, tokenizer)), None
    if config.prediction is not None:
        raise OptionError("prediction is for drafter='text', which has no draft_model; leave out one of them")
    drafter = HFModel(load_model(draft_model, dtype, device, trust_remote_code))
    check_pair(target, drafter, tokenizer, load_tokenizer(draft_model, trust_remote_code))
    if drafter.model is not target.model:
        probe(drafter)
    return ModelDrafter(drafter, config, target.vocab_size), drafter.context_window


def _prediction(target: HFModel, config: Config, tokenizer: Any | None) -> list[int]:
    """Token ids of `config.prediction`; checks what a drafter without a model can do."""
    if config.asks_model is not None:
        raise OptionError(
            f"{config.asks_model} asks a draft model; give draft_model=..., or write structure='graph', 'tree' or 'chain'"
        )
    prediction = config.prediction or ()
    if config.drafter == "text" and not prediction:
        raise OptionError("drafter='text' needs the text that the output may repeat; write prediction='...'")
    if isinstance(prediction, str):
        if tokenizer is None:
            raise OptionError("a prediction given as text needs a tokenizer; pass token ids or tokenizer=...")
        prediction = tokenizer(prediction, add_special_tokens=False)["input_ids"]
    wrong = [token for token in prediction if not 0 <= token < target.vocab_size]
    if wrong:
        raise OptionError(
            f"prediction holds token id {wrong[0]}, outside the target's vocabulary of {target.vocab_size}"
        )
    return list(prediction)
