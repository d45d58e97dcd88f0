"""Which backend runs a model: the one that was asked for, or the fastest one that runs it exactly here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, PretrainedConfig

from draftgraph.backends.base import CausalLM
from draftgraph.backends.cuda_graphs import on_gpu
from draftgraph.backends.ends import Ends, ends_of
from draftgraph.backends.hub import kept, locate
from draftgraph.backends.load import Source, load_model, read_config
from draftgraph.backends.openvino import load as openvino
from draftgraph.backends.openvino.precision import QUANTISED, STORED
from draftgraph.backends.openvino.refusals import UnfitError, is_installed
from draftgraph.backends.probe import probe
from draftgraph.backends.recurrent_model import torch_model
from draftgraph.backends.sharded_model import sharded_model
from draftgraph.backends.shards import load_shard, refuse_beside, refuse_plan, shards
from draftgraph.backends.untrusted import refuse_broken_generation_config, told
from draftgraph.errors import ModelError, OptionError, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AUTO, TORCH, OPENVINO, CUDA_GRAPHS = "auto", "torch", "openvino", "cuda_graphs"
NAMES = (AUTO, TORCH, OPENVINO, CUDA_GRAPHS)
FASTEST = "the fastest backend on this CPU"
_TOLD: set[str] = set()
"""Reasons for another backend that were logged in this process."""


@dataclass(frozen=True)
class Loading:
    """How models are loaded: options of `Engine.from_pretrained`.

    trusted     whether code that comes with them may run.
    taps        hidden states of the target that will be asked for.
    ends        whether a drafter borrows the target's embeddings and head.
    weights     what they are quantised to, "int8" or "int4"; None: as they are stored.
    draft_weights  the same of a draft model, or "stored"; None: as `weights` says.
    said_as     the name of the option that `weights` was said by.
    tp_plan     "auto": the target is shared out over the processes of a torchrun job by its own plan; None: it is not.
    """

    dtype: str | torch.dtype | None = None
    device: str | None = None
    trusted: bool = False
    backend: str = AUTO
    taps: tuple[str, ...] = ()
    ends: bool = False
    weights: str | None = None
    draft_weights: str | None = None
    said_as: str = "weights"
    tp_plan: str | None = None

    def __post_init__(self) -> None:
        require(self.backend in NAMES, "backend", self.backend, "'auto', 'torch', 'openvino' or 'cuda_graphs'")
        require(self.weights in (None, *QUANTISED), self.said_as, self.weights, "'int8', 'int4', or leave it out")
        instead = "'int8', 'int4', 'stored', or leave it out"
        require(self.draft_weights in (None, STORED, *QUANTISED), "draft_weights", self.draft_weights, instead)
        for name, asked in ((self.said_as, self.weights), ("draft_weights", self.draft_weights)):
            if asked in QUANTISED and self.backend not in (AUTO, OPENVINO):
                raise OptionError(
                    f"{name}={asked!r} runs on OpenVINO alone, and backend={self.backend!r} was asked for; leave one out"
                )
        refuse_plan(self.tp_plan, self.device)

    def of_draft_model(self) -> Loading:
        """How a draft model is loaded that comes with a target which is loaded so."""
        own = replace(self, taps=(), tp_plan=None, draft_weights=None)
        if self.draft_weights is None:
            return own
        return replace(
            own, weights=None if self.draft_weights == STORED else self.draft_weights, said_as="draft_weights"
        )


@dataclass(frozen=True)
class Loaded:
    """A model on its backend, and what its files say beside the weights.

    configured  gives its configuration, which most starts can do without: importing its class takes time.
    reason      why it runs on this backend, in words.
    inside      the transformers model, where that is what runs.
    ends        embeddings and head, where they were asked for.
    """

    model: CausalLM
    configured: Callable[[], PretrainedConfig]
    generation_config: GenerationConfig
    reason: str
    inside: PreTrainedModel | None = None
    ends: Ends | None = None

    @cached_property
    def config(self) -> PretrainedConfig:
        """Raises ModelError if it is missing or corrupt."""
        return self.configured()


def load_backend(
    source: Source,
    loading: Loading,
    probed: torch.nn.Module | None = None,
    loaded: torch.nn.Module | None = None,
) -> Loaded:
    """A model that is ready to run, checked against plain forwards.

    probed  a transformers model that was checked already. loaded  what torch would load from the source, if it is there.

    Raises ModelError for what cannot be loaded or run exactly, and OptionError for an impossible dtype or device.
    """
    if loading.tp_plan is not None or shards(source) > 1:
        return _shared_out(source, loading)
    faster, reason = off_torch(source, loading)
    return _on_torch(source if loaded is None else loaded, loading, reason, probed) if faster is None else faster


def off_torch(source: Source, loading: Loading) -> tuple[Loaded | None, str]:
    """The model on another backend than torch, or None; and why, in words.

    Raises ModelError where another backend was asked for and cannot run it exactly.
    """
    quantised = loading.weights is not None
    reason = (
        f"{loading.said_as}={loading.weights!r} was asked for"
        if quantised
        else f"backend={loading.backend!r} was asked for"
    )
    if (quantised or loading.backend == OPENVINO) and (merged := _made_by_torch(source)):
        raise UnfitError(f"{str(source)!r} cannot run on OpenVINO: {merged}; write backend='torch' alone")
    if quantised:
        return _quantised(source, loading, reason), reason
    if loading.backend == OPENVINO:
        return _on_openvino(source, loading, reason), reason
    if loading.backend in (TORCH, CUDA_GRAPHS):
        return None, reason
    if why_not := _not_tried(source, loading):
        return None, why_not
    try:
        return _on_openvino(source, loading, FASTEST), FASTEST
    except UnfitError as error:
        _say_once(f"{str(source)!r} runs on torch: {error}")
        return None, str(error)
    except ModelError as error:  # the model itself is to blame, and torch says so in its own words
        return None, str(error)


def _not_tried(source: Source, loading: Loading) -> str:
    """Why "auto" does not even try OpenVINO, empty if it does."""
    if isinstance(source, torch.nn.Module):
        return "a loaded model stays as it is, for its user may change it; write backend='openvino' to convert it"
    if merged := _made_by_torch(source):
        return merged
    if not is_installed():
        return "OpenVINO, which is faster on a CPU, is not installed; pip install 'draftgraph[openvino]'"
    if loading.trusted:
        return "the model may bring code of its own"
    if loading.device not in (None, "cpu") or (loading.device is None and torch.cuda.is_available()):
        return "OpenVINO is for CPUs"
    return ""


def _made_by_torch(source: Source) -> str:
    """Why the weights of a folder or file are not those that would run, empty if they are."""
    place = locate(source) if isinstance(source, str | Path) and source else None
    return "torch merges adapters" if place is not None and place.base is not None else ""


def _quantised(source: Source, loading: Loading, reason: str) -> Loaded:
    if isinstance(source, torch.nn.Module) and loading.backend == AUTO:
        raise OptionError(
            f"{loading.said_as}={loading.weights!r} is for models that are loaded here, and {type(source).__name__} is loaded "
            "already; give its folder, or write backend='openvino', which converts it as it is now"
        )
    try:
        return _on_openvino(source, loading, reason)
    except UnfitError as error:
        raise UnfitError(f"{error} and leave {loading.said_as}={loading.weights!r} out") from error


def _on_openvino(source: Source, loading: Loading, reason: str) -> Loaded:
    if isinstance(source, torch.nn.Module):
        model, said = openvino.from_loaded(source, loading.dtype, loading.device, loading.taps, loading.weights)
        return Loaded(model, lambda: said.config, said.generation_config, reason, ends=_ends(source, loading))
    model = openvino.from_folder(source, loading.dtype, loading.device, loading.taps, loading.weights)
    configured = partial(read_config, source)
    own = _generation_config(locate(source).name, configured)
    return Loaded(model, configured, own, reason, ends=_ends(source, loading))


def _ends(source: Source, loading: Loading) -> Ends | None:
    return ends_of(source) if loading.ends else None


def _on_torch(source: Source, loading: Loading, reason: str, probed: torch.nn.Module | None) -> Loaded:
    make = on_gpu if loading.backend == CUDA_GRAPHS else torch_model
    model = make(load_model(source, loading.dtype, loading.device, loading.trusted))
    if model.model is not probed:
        probe(model)
    inside = model.model
    return Loaded(model, lambda: inside.config, inside.generation_config, reason, inside, inside)


def _shared_out(source: Source, loading: Loading) -> Loaded:
    """The target in shards, for rank 0; the other ranks make its passes and never return."""
    refuse_beside(loading.backend, loading.weights, loading.ends)
    loaded = source if isinstance(source, torch.nn.Module) else None
    model = sharded_model(loaded or load_shard(source, loading.dtype, loading.trusted, AUTO))
    probe(model)
    inside, reason = model.model, f"its weights are shared out over {model.ranks.count} ranks"
    return Loaded(model, lambda: inside.config, inside.generation_config, reason, inside)


def _generation_config(name: str, configured: Callable[[], PretrainedConfig]) -> GenerationConfig:
    """What transformers takes for the generation config of a model from this folder. Raises ModelError if it is corrupt."""
    refuse_broken_generation_config(name)
    file = kept(name, "generation_config.json")
    with told(f"cannot read the generation config of {name!r}"):
        if file is None:
            return GenerationConfig.from_model_config(configured())
        return GenerationConfig.from_pretrained(Path(file).parent, local_files_only=True)


def _say_once(fact: str) -> None:
    if fact not in _TOLD:
        _TOLD.add(fact)
        logging.getLogger("draftgraph").warning("draftgraph: %s", fact)
