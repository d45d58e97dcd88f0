"""What OpenVINO cannot run exactly, as far as it can be told before anything is converted."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import replace
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from draftgraph.backends.hub import kept
from draftgraph.backends.openvino.precision import Precision, of_dtype
from draftgraph.backends.openvino.runtime import runtime
from draftgraph.errors import ModelError


class UnfitError(ModelError):
    """OpenVINO cannot run this model exactly here; torch may."""


PACKAGE, QUANTISER = "openvino", "nncf"
INSTEAD = "write backend='torch'"
_BY_LENGTH = ("longrope", "dynamic")
"""Kinds of rotary positions that depend on the length of the text, so that no table holds them."""


def is_installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


def version() -> str:
    """The version of OpenVINO. Raises UnfitError if it is not installed."""
    if not is_installed():
        raise UnfitError(f"OpenVINO is not installed; pip install 'draftgraph[openvino]', or {INSTEAD}")
    return importlib.metadata.version(PACKAGE)


def precision_of(
    dtype: str | torch.dtype | None, config: PretrainedConfig | None, weights: str | None = None
) -> Precision:
    """The precision that is asked for; dtype None is float32, "auto" is what the config says. weights  as in `Loading`.

    Raises UnfitError for what OpenVINO does not compute in here.
    """
    wanted: Any = torch.float32 if dtype is None else dtype
    if wanted == "auto":
        wanted = getattr(config, "dtype", None) or torch.float32
    if isinstance(wanted, str):
        wanted = getattr(torch, wanted.removeprefix("torch."), None)
    found = of_dtype(wanted)
    if found is None:
        raise UnfitError(
            f"OpenVINO computes in float32 or bfloat16 here, not in {str(wanted).removeprefix('torch.')}; write "
            f"dtype='float32', or {INSTEAD}"
        )
    if found.activations == "bf16":
        ov = runtime()

        if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UnfitError(f"this CPU does not compute in bfloat16; write dtype='float32', or {INSTEAD}")
    if weights is None:
        return found
    if importlib.util.find_spec(QUANTISER) is None:
        raise UnfitError(
            f"weights are quantised by the package {QUANTISER}, which is not installed; pip install 'draftgraph[quantised]', or "
            f"{INSTEAD}"
        )
    return replace(found, weights=weights)


def refuse_device(where: torch.device) -> None:
    if where.type != "cpu":
        raise UnfitError(f"OpenVINO runs on the CPU here, not on {where}; write device='cpu', or {INSTEAD}")


def refuse_folder(name: str) -> None:
    """Refuse folders whose files say too little about the model that transformers makes of them. Raises ModelError."""
    if kept(name, "adapter_config.json") is not None:
        raise UnfitError(
            f"{name!r} holds an adapter, and OpenVINO wants whole weights; save what model.merge_and_unload() returns, "
            f"or {INSTEAD}"
        )


def refuse_config(config: PretrainedConfig) -> None:
    """Refuse architectures that paged attention computes otherwise. Raises UnfitError."""
    text, why = config.get_text_config(decoder=True), ""
    if getattr(config, "auto_map", None):
        why = "it comes with code of its own, which may change while its files stay"
    elif getattr(config, "quantization_config", None):
        why = "its weights are quantised"
    elif kinds := {type(layer).__name__ for layer in _layers(text) if type(layer) is not DynamicLayer}:
        why = f"its cache has windows or states ({', '.join(sorted(kinds))})"
    elif kind := _rope_by_length(text):
        why = f"its rotary positions ({kind}) depend on the length of the text"
    if why:
        raise UnfitError(f"{config.model_type} cannot run on OpenVINO exactly: {why}; {INSTEAD}")


def _layers(config: PretrainedConfig) -> list[Any]:
    return list(DynamicCache(config=config).layers)


def _rope_by_length(config: PretrainedConfig) -> str:
    """The kind of rotary positions if it depends on the length, else empty."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [given, *given.values()] if isinstance(given, dict) else []
    named = [str(each.get("rope_type") or each.get("type")) for each in kinds if isinstance(each, dict)]
    return next((kind for kind in named if kind in _BY_LENGTH), "")
