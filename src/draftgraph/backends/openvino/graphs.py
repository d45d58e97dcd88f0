"""A graph of a model, and what is compiled of it, once it was compared with the model in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from draftgraph.backends.openvino import refusals
from draftgraph.backends.openvino.convert import convert
from draftgraph.backends.openvino.model import About, OpenVinoModel
from draftgraph.backends.openvino.paged import to_paged
from draftgraph.backends.openvino.precision import Precision
from draftgraph.backends.openvino.quantise import quantise
from draftgraph.backends.openvino.refusals import UnfitError
from draftgraph.backends.openvino.trial import alike, trial
from draftgraph.backends.probe import honours_masks
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import DraftgraphError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POSITIONS = 1 << 17
"""Positions that rotary tables hold at most, for models that do not say how much they can read."""
EXACT = Precision()


def graph_of(model: PreTrainedModel, taps: Sequence[str]) -> Any:
    """Raises ModelError for a model that cannot be traced, OptionError for taps that it does not have."""
    window = TorchModel(model).context_window
    try:
        return convert(model, min(window or POSITIONS, POSITIONS), taps)
    except (DraftgraphError, MemoryError, OSError):
        raise
    except Exception as error:
        if isinstance(error.__cause__, DraftgraphError):  # the tracer wraps what is raised inside
            raise error.__cause__ from None
        raise _unfit(type(model).__name__, f"it cannot be converted ({_cause(error)})") from error


def probed(graph: Any, reference: TorchModel, about: About, precision: Precision) -> tuple[OpenVinoModel, Any]:
    """Compile a graph in float32 and compare it with the model that it was made from; then in the precision that was asked for.

    Rounding hides mistakes, so that the comparison is strict where nothing is rounded. Returns what runs, and the graph of it,
    which is on paged attention.

    Raises ModelError if it is another model.
    """
    exact, paged = _compiled(graph.clone(), about, EXACT)
    check = honours_masks(reference, exact)
    if check.failed:
        raise _unfit(about.class_name, f"passes give other logits than transformers does ({check.found})")
    about = exact.about = replace(about, checked=check.found)
    if precision == EXACT:
        return exact, paged
    del paged
    expected = trial(exact)
    try:
        quantise(graph, precision)
    except UnfitError as error:
        raise _unfit(about.class_name, str(error)) from error
    model, paged = _compiled(graph, about, precision)
    if not alike(trial(model), expected, precision.rounding):
        raise _unfit(about.class_name, f"{precision} is too coarse for it")
    return model, paged


def _compiled(graph: Any, about: About, precision: Precision) -> tuple[OpenVinoModel, Any]:
    """What runs, and the graph, rewritten in place."""
    try:
        to_paged(graph, precision)
        return OpenVinoModel(graph, about, precision, torch.get_num_threads()), graph
    except (ModelError, MemoryError, OSError):
        raise
    except Exception as error:
        raise _unfit(about.class_name, f"it does not run on paged attention ({_cause(error)})") from error


def _unfit(class_name: str, why: str) -> UnfitError:
    return UnfitError(f"{class_name} cannot run on OpenVINO exactly: {why}; {refusals.INSTEAD}")


def _cause(error: Exception) -> str:
    """The line of an error of OpenVINO that tells most."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "No " in line]
    return (told or lines or [type(error).__name__])[0][:160]
