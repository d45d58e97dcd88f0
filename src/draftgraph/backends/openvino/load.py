"""From a folder, a file, a hub name or a loaded model to a model on OpenVINO: converted once, then read from the user's cache."""

from __future__ import annotations

import copy
import gc
import importlib.metadata
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

import torch
import transformers

from draftgraph.backends.fingerprint import fingerprint
from draftgraph.backends.gguf import is_gguf
from draftgraph.backends.hub import kept, locate
from draftgraph.backends.load import as_device, load_model, read_config
from draftgraph.backends.openvino import pages, refusals, store
from draftgraph.backends.openvino.circumstances import circumstances, found_once
from draftgraph.backends.openvino.graphs import graph_of, probed
from draftgraph.backends.openvino.model import About, OpenVinoModel
from draftgraph.backends.openvino.paged import constant_of, read_paged
from draftgraph.backends.openvino.precision import Precision
from draftgraph.backends.openvino.quantise import made_with as quantised_with
from draftgraph.backends.openvino.refusals import UnfitError
from draftgraph.backends.openvino.store import GRAPH, WEIGHTS, Entry, read_entry, update_entry, write_entry
from draftgraph.backends.openvino.trial import alike, trial
from draftgraph.backends.openvino.weights import digest, stamps, weight_files
from draftgraph.backends.openvino.weights import fingerprint as fingerprint_of_files
from draftgraph.backends.torch_model import TorchModel
from draftgraph.backends.wrapped import opened
from draftgraph.errors import LogitsError, ModelError, first_line
from draftgraph.files import BrokenFileError, read_text
from draftgraph.user_cache import FOLDER, folder

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NOTES = "draftgraph.converting"
"""The logger that says when someone waits for a conversion."""
_ONE = threading.RLock()
"""Models are converted and started one at a time: a second thread that wants the same one finds it running."""
_RUNNING: WeakValueDictionary[tuple[str, int], OpenVinoModel] = WeakValueDictionary()
"""Models that engines of this process use now, by fingerprint and threads: their weights are there once."""
_TOLD: set[str] = set()
"""Reasons why nothing is kept that were logged."""


@dataclass(frozen=True)
class _Source:
    """The weights of a model.

    name         of the folder or the GGUF file, or on the hub. files  that hold its weights.
    fingerprint  of weights and configuration. made_with  what else a graph of them depends on.
    place        in the user's cache; None if there is none. useless  what is `there`, should it turn out to be of no use.
    """

    name: str
    files: list[Path]
    fingerprint: str
    made_with: dict[str, str]
    precision: Precision
    taps: tuple[str, ...]
    place: Path | None
    useless: int | None

    @property
    def key(self) -> tuple[str, int]:
        said = [self.fingerprint, *sorted(self.made_with.items()), stamps(self.files)]
        return repr(said), torch.get_num_threads()


def from_folder(
    source: str | Path,
    dtype: str | torch.dtype | None,
    device: str | None,
    taps: Sequence[str] = (),
    weights: str | None = None,
) -> OpenVinoModel:
    """The model of a folder, a GGUF file (which transformers dequantises) or a hub name.

    taps     names of the hidden states that its graph gives as well.
    weights  what they are quantised to, "int8" or "int4"; None: as they are stored.

    Raises ModelError, with the cause and what to write instead, if OpenVINO cannot run it exactly here.
    """
    version = refusals.version()
    refusals.refuse_device(as_device(device))
    place = locate(source)
    name = place.title
    if place.gguf is None:
        refusals.refuse_folder(name)
    # Whoever keeps a graph has read the configuration, which takes most of a second. On the hub it may be a newer one.
    config = None if place.local and dtype != "auto" and weight_files(name) else _read_config(name)
    precision = refusals.precision_of(dtype, config, weights)
    with _ONE:
        found = _look(name, version, precision, tuple(taps))
        running = _RUNNING.get(found.key) or _kept(found)
        if running is None:
            if config is None:
                _read_config(name)
            running = _converted(found)
        _RUNNING[found.key] = running
        return running


def _read_config(name: str) -> PretrainedConfig:
    """Raises ModelError if it is broken, or of a model that paged attention computes otherwise."""
    config = read_config(name)
    refusals.refuse_config(config)
    return config


def from_loaded(
    module: torch.nn.Module,
    dtype: str | torch.dtype | None,
    device: str | None,
    taps: Sequence[str] = (),
    weights: str | None = None,
) -> tuple[OpenVinoModel, PreTrainedModel]:
    """A loaded model as it is now, and the transformers model in it.

    The model may change afterwards, so that nothing of it is kept: it is converted every time.

    dtype  None is the model's own. Raises ModelError as `from_folder` does.
    """
    version = refusals.version()
    inside = opened(module)
    model = inside.model
    if inside.called is not model:
        raise UnfitError(f"OpenVINO converts models of transformers, not {inside.name}; {inside.remedy}")
    TorchModel(model).refuse_training()
    refusals.refuse_device(as_device(device) if device is not None else torch.device(str(model.device)))
    refusals.refuse_config(model.config)
    precision = refusals.precision_of(TorchModel(model).dtype if dtype is None else dtype, model.config, weights)
    # A graph shares the memory of the model that it was converted from, and that one belongs to its user.
    model = cast("PreTrainedModel", copy.deepcopy(model).float())
    with _ONE:
        about = _about(TorchModel(model), fingerprint(model), version)
        return probed(graph_of(model, taps), TorchModel(model), about, precision)[0], inside.model


def _look(name: str, version: str, precision: Precision, taps: tuple[str, ...] = ()) -> _Source:
    """Raises ModelError for weights in another format."""
    files = weight_files(name)
    if not files:
        load_model(name, torch.float32, "cpu")  # which downloads it, or says what is wrong
        files = weight_files(name)
    if not files:
        raise UnfitError(
            f"the weights of {name!r} are not in safetensors files, by which converted models are told apart; save the model "
            f"again with save_pretrained, or {refusals.INSTEAD}"
        )
    config = None if is_gguf(name) else kept(name, "config.json")
    try:
        known = fingerprint_of_files(files, "" if config is None else read_text(config))
    except (OSError, ValueError, KeyError, TypeError) as error:
        load_model(name, torch.float32, "cpu")  # says what is wrong in the words that are used elsewhere
        raise ModelError(f"cannot read the weights of {name!r}: {first_line(error)}") from error
    made_with = {"openvino": version, "transformers": transformers.__version__, "torch": torch.__version__}
    made_with |= {"precision": str(precision), "taps": " ".join(taps)} | quantised_with(precision)
    if is_gguf(name):
        made_with["gguf"] = importlib.metadata.version("gguf")  # which knows how its blocks are dequantised
    place = store.place_of(folder(), known, made_with)
    return _Source(name, files, known, made_with, precision, taps, place, store.there(place))


def _kept(source: _Source) -> OpenVinoModel | None:
    """The model from the user's cache; None if it is not there, or of no use any more.

    Raises ModelError if it was found that OpenVINO cannot run it.
    """
    place, why = source.place, ""
    if place is None:
        return None
    try:
        entry = read_entry(place, source.made_with)
        if stamps(source.files) not in entry.stamps:
            if digest(source.files) != entry.weights:
                return None
            entry = replace(entry, stamps=[*entry.stamps, stamps(source.files)])
            update_entry(place, entry)
        if entry.refused:
            raise UnfitError(entry.refused)
        return _started(place, entry, source)
    except FileNotFoundError:
        return None
    except (OSError, BrokenFileError, RuntimeError, LogitsError) as error:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error).strip()
    logging.getLogger(NOTES).warning("%s cannot be used (%s); it is made again", place, why)
    return None


def _started(place: Path, entry: Entry, source: _Source) -> OpenVinoModel:
    """Raises RuntimeError, as OpenVINO does, or BrokenFileError if the graph does not compute what it did."""
    about = About(
        Path(source.name).name,
        entry.class_name,
        entry.vocab_size,
        entry.window,
        source.fingerprint,
        source.made_with["openvino"],
        entry.checked,
    )
    others = pages.mappings(place / WEIGHTS)  # of models that may go at any moment
    graph = read_paged(place / GRAPH)
    with pages.given_back(pages.mappings(place / WEIGHTS) - others, constant_of(graph)):
        model = OpenVinoModel(graph, about, source.precision, torch.get_num_threads())
        del graph  # before weights are packed
        pages.trim()
        seen = trial(model)  # the first passes pack what is left
    pages.trim()
    if not alike(seen, torch.tensor(entry.sample), source.precision.tolerance):
        raise BrokenFileError("its logits are not those that it had")
    model.found_once = partial(found_once, place, circumstances(seen))
    return model


def _converted(source: _Source) -> OpenVinoModel:
    """A model that is converted and, where that is possible, kept.

    Raises UnfitError if OpenVINO cannot run it exactly, which is kept as well.
    """
    place, begun = source.place, time.perf_counter()
    logging.getLogger(NOTES).warning("converting %s for OpenVINO", source.name)
    entry, model = _made(source)
    where = ""
    if model is None:
        assert place is not None
        where = f"; the graph is in {place}"
        gc.collect()  # models of transformers are parts of circles
        model = _started(place, entry, source)
    logging.getLogger(NOTES).warning("converted %s in %.1f s%s", source.name, time.perf_counter() - begun, where)
    return model


def _made(source: _Source) -> tuple[Entry, OpenVinoModel | None]:
    """What is kept of a model, and the model itself where its graph is not kept.

    A graph that was just traced holds all weights that torch has read, and what is compiled of it holds the graph. A graph that
    is read from a file holds none.
    """
    before = stamps(source.files)
    reference = TorchModel(load_model(source.name, torch.float32, "cpu"))
    about = _about(reference, source.fingerprint, source.made_with["openvino"])
    entry = Entry(
        source.made_with, digest(source.files), [before], about.class_name, about.vocab_size, window=about.window
    )
    try:
        model, graph = probed(graph_of(reference.model, source.taps), reference, about, source.precision)
    except UnfitError as error:
        _write(source, replace(entry, refused=str(error)), None)
        raise
    entry = replace(entry, checked=model.about.checked, sample=trial(model).tolist())
    return entry, None if _write(source, entry, graph) else model


def _write(source: _Source, entry: Entry, graph: Any | None) -> bool:
    """Keep a model, or say once why that is not possible. Whether it is kept."""
    why = f"there is no home folder; set {FOLDER} to a folder"
    if source.place is not None:
        try:
            write_entry(source.place, entry, graph, source.useless)
            return True
        except OSError as error:
            why = f"{str(source.place.parent)!r} cannot be written ({error.strerror})"
    if why not in _TOLD:
        _TOLD.add(why)
        logging.getLogger(NOTES).warning("converted models cannot be kept: %s; every process converts them again", why)
    return False


def _about(model: TorchModel, weights: str, version: str) -> About:
    return About(model.model_name, model.class_name, model.vocab_size, model.context_window, weights, version)
