"""Parts to an engine: the drafter that was asked for, checked against its target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.backends.feature_files import holds_features, read_features
from draftgraph.backends.feature_model import FeatureModel
from draftgraph.backends.load import check_pair, load_model, load_tokenizer
from draftgraph.backends.probe import probe
from draftgraph.backends.torch_model import TorchModel
from draftgraph.draft.base import Drafter
from draftgraph.draft.edges.sources import edges_beside_model, edges_without_model
from draftgraph.draft.hidden import HiddenDrafter
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.model import ModelDrafter
from draftgraph.engine.config import Config
from draftgraph.errors import OptionError


def with_drafter(config: Config, draft_model: bool) -> Config:
    """The config with its drafter settled; without a draft model the default looks continuations up. Raises OptionError."""
    if not draft_model and config.drafter is None:
        config = config.with_options(drafter="lookup")
    if not draft_model and config.drafter == "model":
        raise OptionError("drafter='model' needs a draft_model; write draft_model=..., or drafter='lookup'")
    if draft_model and config.drafter not in (None, "model"):
        asked = config.own_drafter.name if config.own_drafter is not None else repr(config.drafter)
        raise OptionError(f"drafter={asked} drafts without it; leave out draft_model, or write drafter='model'")
    return config


def make_backend(model: torch.nn.Module) -> TorchModel:
    """What runs a loaded model. Raises ModelError, before any forward, if none can."""
    return TorchModel(model)


def make_drafter(
    target: TorchModel,
    draft_model: str | Path | PreTrainedModel | None,
    config: Config,
    tokenizer: Any | None,
    dtype: str | torch.dtype | None,
    device: str | None,
    trust_remote_code: bool = False,
) -> Drafter:
    """The drafter that the config asks for."""
    own, structure = config.own_drafter, config.resolved_structure
    if own is not None:
        _refuse_missing_taps(target, own)
        return own
    if draft_model is None:
        return _looking_up(target, config, tokenizer)
    if config.prediction is not None:
        raise OptionError("prediction is for drafter='text', which has no draft_model; leave out one of them")
    edges = edges_beside_model(config.edges, structure)
    if holds_features(draft_model):
        features = FeatureModel(*read_features(Path(str(draft_model)), target.model), target)
        return HiddenDrafter(features, target.vocab_size, edges)
    drafter = make_backend(load_model(draft_model, dtype, device, trust_remote_code))
    check_pair(target, drafter, tokenizer, load_tokenizer(draft_model, trust_remote_code))
    if drafter.model is not target.model:
        probe(drafter)
    return ModelDrafter(drafter, target.vocab_size, edges)


@torch.inference_mode()
def _refuse_missing_taps(target: TorchModel, own: Drafter) -> None:
    """Raise OptionError for taps that the target does not have, ModelError if it gives none."""
    if own.taps:
        text = target.open(1)
        try:
            target.forward([Feed(text, [0])], own.taps)
        finally:
            target.close(text)


def _looking_up(target: CausalLM, config: Config, tokenizer: Any | None) -> LookupDrafter:
    """A drafter without a model; checks what it can do."""
    if config.resolved_structure.needs_model:
        raise OptionError(
            f"structure={config.resolved_structure} asks a draft model; give draft_model=..., or write structure='graph', "
            "'tree' or 'chain'"
        )
    prediction = _prediction(target, config, tokenizer)
    return LookupDrafter(edges_without_model(config.edges, bool(prediction)), prediction)


def _prediction(target: CausalLM, config: Config, tokenizer: Any | None) -> list[int]:
    """Token ids of `config.prediction`."""
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
