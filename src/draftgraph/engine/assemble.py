"""Parts to an engine: the drafter that was asked for, checked against its target."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PretrainedConfig

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.backends.choice import Loaded, Loading, load_backend
from draftgraph.backends.load import check_pair, load_tokenizer, read_config
from draftgraph.backends.recurrent_model import torch_model
from draftgraph.backends.shards import refuse_shards
from draftgraph.backends.torch_model import TorchModel
from draftgraph.backends.trained import Trained, find_trained
from draftgraph.backends.wrapped import opened
from draftgraph.draft.base import Drafter
from draftgraph.draft.edges.sources import edges_beside_model, edges_without_model
from draftgraph.draft.hidden import HiddenDrafter
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.model import ModelDrafter
from draftgraph.draft.ngrams.file import read_table
from draftgraph.draft.ngrams.table import NgramTable
from draftgraph.draft.onward import OnwardDrafter
from draftgraph.draft.search import SEARCH, SearchDrafter
from draftgraph.draft.structures.base import Structure
from draftgraph.draft.text_model import TextDrafter
from draftgraph.engine.bitwise import steady
from draftgraph.engine.config import Config
from draftgraph.engine.parallel_options import refuse_features, refuse_one_device, refuse_unready
from draftgraph.errors import OptionError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_drafter(config: Config, draft_model: bool) -> Config:
    """The config with its drafter settled; without a draft model the default looks continuations up. Raises OptionError."""
    if config.parallel and not draft_model:
        refuse_unready(config.own_drafter)
    if not draft_model and config.drafter is None:
        config = config.with_options(drafter="lookup")
    if not draft_model and config.drafter == "model":
        raise OptionError("drafter='model' needs a draft_model; write draft_model=..., or drafter='lookup'")
    if draft_model and config.drafter not in (None, "model"):
        asked = config.own_drafter.name if config.own_drafter is not None else repr(config.drafter)
        raise OptionError(f"drafter={asked} drafts without it; leave out draft_model, or write drafter='model'")
    return config


def make_backend(model: torch.nn.Module) -> TorchModel:
    """What runs a loaded model where nothing else is asked for. Raises ModelError, before any forward, if it cannot."""
    refuse_shards(model, "run inside transformers' generate, or by a command that takes one process")
    return torch_model(model)


def loaded_already(model: CausalLM | None, source: Any) -> Any:
    """What another engine of the same models is made of: weights that torch has loaded from `source` are not read again."""
    module = getattr(model, "model", None)
    return module if isinstance(module, torch.nn.Module) and not isinstance(source, torch.nn.Module) else source


def why_one_path(*models: CausalLM | None) -> str:
    """Why drafts cannot branch, in words; empty if they can. models  the target, and that of the drafter if it has one."""
    bound = next((model for model in models if model is not None and not model.branches), None)
    layers = "layers that read one path (recurrent ones, or such with an index of rows)"
    return "" if bound is None else f"{bound.model_name} has {layers}: drafts are chains"


def on_one_path(config: Config, *models: CausalLM | None) -> Config:
    """The config for drafts that these models can read. Raises OptionError where drafts that branch were asked for."""
    why = why_one_path(*models)
    if not why or config.drafts_chains:
        return config
    own = config.own_drafter
    if own is not None and own.structure is not None:
        raise OptionError(
            f"{why}, and {own.name} does not promise chains; write structure = dg.structures.Chain() into it"
        )
    if config.structure != "auto":
        raise OptionError(f"{why}, and structure={config.resolved_structure} branches; leave it out, or write 'chain'")
    if config.edges != "auto" and config.drafter in (None, "model"):
        raise OptionError(f"{why}, which have no spare slots for edges={config.edges!r}; leave it out")
    try:
        return config.with_options(structure="chain")
    except OptionError as error:
        raise OptionError(f"{why}; {error}") from error


def readable_drafts(config: Config, target: CausalLM, drafter: Drafter) -> Config:
    """The config for drafts that target and drafter can read. Raises OptionError where others were asked for."""
    return along_one_spine(on_one_path(config, target, drafter.model), drafter.depths)


def along_one_spine(config: Config, most: int | None) -> Config:
    """The config for a drafter that gives `most` tokens at once, whose rows hold along one path with leaves beside it.

    most  None: it grows drafts of any shape, and nothing changes.

    Raises OptionError where drafts were asked for that branch further down, or are deeper than its rows.
    """
    if most is None:
        return config
    why = f"the draft model gives {most} tokens in one pass, whose laws are of use along one path only"
    if config.structure == "auto" and not _is_spine(config.resolved_structure):
        config = _one_of(config, ("comb", "chain"))
    structure = config.resolved_structure
    if not _is_spine(structure):
        raise OptionError(f"{why}, and structure={structure} branches below siblings; write 'comb' or 'chain'")
    asked = config.num_speculative_tokens if structure.shape is None else len(structure.shape)
    if asked is not None and asked > most:
        raise OptionError(f"{why}, and {asked} were asked for; write num_speculative_tokens={most} or less")
    return config


def _one_of(config: Config, structures: Sequence[str]) -> Config:
    """The config with the first of these structures that its rule verifies. Raises OptionError if there is none."""
    *others, last = structures
    for structure in others:
        with suppress(OptionError):
            return config.with_options(structure=structure)
    return config.with_options(structure=last)


def _is_spine(structure: Structure) -> bool:
    """Whether one node of a level has children at most."""
    for sampled in (False, True):
        tree = structure.example(sampled)
        levels = [tree.depths[parent] for parent in {parent for parent in tree.parents if parent >= 0}]
        if len(set(levels)) < len(levels):
            return False
    return True


def for_drafter(loading: Loading, target: Any, draft_model: object, config: Config) -> tuple[Loading, Trained | None]:
    """How the target is loaded, so that it gives its drafter what that reads; and the drafter, if it is a trained one.

    Raises ModelError or PairError for a trained drafter that is broken, or reads what the target does not have.
    """
    own, trained, head = config.own_drafter, find_trained(draft_model), config.resolved_rule.head
    judging = () if head is None else tuple(head.taps)
    if trained is not None and config.parallel:
        refuse_features(repr(str(draft_model)))
    if trained is None:
        drafting = () if own is None else tuple(own.taps)
        return replace(loading, taps=tuple(dict.fromkeys(drafting + judging))), None
    layers = _config_of(target, loading.trusted).get_text_config(decoder=True).num_hidden_layers
    return replace(loading, taps=tuple(dict.fromkeys((*trained.taps(layers), *judging))), ends=True), trained


def _config_of(target: Any, trusted: bool) -> PretrainedConfig:
    return opened(target).model.config if isinstance(target, torch.nn.Module) else read_config(target, trusted)


def make_drafter(
    target: Loaded,
    draft_model: str | Path | PreTrainedModel | None,
    config: Config,
    tokenizer: Any | None,
    loading: Loading,
    trained: Trained | None = None,
) -> tuple[Drafter, str]:
    """The drafter that the config asks for, and why its model runs on its backend, in words."""
    own, config = config.own_drafter, on_one_path(config, target.model)
    if loading.draft_weights is not None and (own is not None or draft_model is None or trained is not None):
        raise OptionError(
            f"draft_weights={loading.draft_weights!r} is for a draft model that OpenVINO runs, and none was given; leave it out"
        )
    if own is not None:
        _refuse_missing_taps(target.model, own)
        return own, ""
    if draft_model is None:
        return _looking_up(target.model, config, tokenizer), ""
    if config.prediction is not None:
        raise OptionError("prediction is for drafter='text', which has no draft_model; leave out one of them")
    if trained is not None:
        assert target.ends is not None, "they were asked for"
        reader = trained.read(target.ends)
        edges = edges_beside_model(config.edges, along_one_spine(config, reader.depths).resolved_structure)
        if not reader.taps:
            return TextDrafter(reader, target.model.vocab_size, edges), "it was trained for this target"
        return HiddenDrafter(reader, target.model.vocab_size, edges), "it reads the target's hidden states"
    refuse_shards(draft_model, "a draft model")
    drafter = load_backend(draft_model, loading.of_draft_model(), probed=target.inside)
    check_pair(target.model, drafter.model, tokenizer, load_tokenizer(draft_model, loading.trusted))
    if config.parallel:
        refuse_one_device(target.model, drafter.model)
        return OnwardDrafter(drafter.model, target.model.vocab_size), drafter.reason
    edges = edges_beside_model(config.edges, on_one_path(config, drafter.model).resolved_structure)
    steady_model = steady(drafter.model, target.model, config)
    return ModelDrafter(drafter.model, target.model.vocab_size, edges, steady_model), drafter.reason


@torch.inference_mode()
def _refuse_missing_taps(target: CausalLM, own: Drafter) -> None:
    """Raise OptionError for taps that the target does not have, ModelError if it gives none."""
    if own.taps:
        text = target.open(1)
        try:
            target.forward([Feed(text, [0])], own.taps)
        finally:
            target.close(text)


def _looking_up(target: CausalLM, config: Config, tokenizer: Any | None) -> Drafter:
    """A drafter without a model; checks what it can do. Raises OptionError, TableError."""
    refuse_without_model(config)
    prediction = predicted(target, config, tokenizer)
    if config.drafter != SEARCH:
        return LookupDrafter(edges_without_model(config.edges, bool(prediction)), prediction)
    edges = () if config.edges == () and not prediction else edges_without_model(config.edges, bool(prediction))
    if config.table is None:
        return SearchDrafter(edges, prediction, shared=config.table_shared)
    stored = read_table(Path(config.table))
    stored.refuse_foreign(target.vocab_size, tokenizer)
    return SearchDrafter(edges, prediction, NgramTable(stored.counts), stored.digest, config.table_shared)


def refuse_without_model(config: Config) -> None:
    """Raise OptionError for a structure that only a draft model can follow."""
    if config.resolved_structure.needs_model:
        raise OptionError(
            f"structure={config.resolved_structure} asks a draft model; give draft_model=..., or write structure='graph', "
            "'tree' or 'chain'"
        )


def predicted(target: CausalLM, config: Config, tokenizer: Any | None) -> list[int]:
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
