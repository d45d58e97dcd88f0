"""Folders that hold an adapter of PEFT and no model: the base model is loaded, and the adapter put into its weights."""

from __future__ import annotations

import json
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from draftgraph.errors import ModelError, first_line
from draftgraph.files import read_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter_config.json"


def adapter_base(folder: str) -> str | None:
    """The base model that the adapter in a folder belongs to, a folder or hub name; None if there is no adapter.

    Raises ModelError for an adapter that cannot be read, and beside a whole model, where it is not clear what is meant.
    """
    path = os.path.join(folder, ADAPTER)
    if not os.path.lexists(path):
        return None
    if os.path.lexists(os.path.join(folder, "config.json")):
        raise ModelError(
            f"{folder!r} holds a model and an adapter ({ADAPTER}), of which the adapter is read only where peft is installed; "
            "put them into folders of their own, and give the one that you mean"
        )
    said = _read(path)
    base = said.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{path!r} names no base model; write its folder or hub name as base_model_name_or_path there")
    if said.get("megatron_config"):
        raise ModelError(f"{path!r} names a module to import (megatron_core), which is code; take megatron_config out")
    return base


def _read(path: str) -> dict[str, Any]:
    try:
        said = json.loads(read_text(Path(path)))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"cannot read {path!r}: {why}; take the adapter from its source again") from None
    if not isinstance(said, dict):
        raise ModelError(f"cannot read {path!r}: it holds no object; take the adapter from its source again")
    return said


def refuse_without_peft(folder: str) -> None:
    """Raise ModelError where adapters cannot be read."""
    if find_spec("peft") is None:
        raise ModelError(
            f"cannot load {folder!r}: it is an adapter, which needs the package peft; write pip install peft"
        )


def with_adapter(base: PreTrainedModel, folder: str) -> PreTrainedModel:
    """The base model with the adapter in its weights; `base` is used up.

    Raises ModelError for an adapter that lacks weights, or cannot be put into the model's.
    """
    import peft

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = peft.PeftModel.from_pretrained(base, folder)
    lacking = next((str(warning.message) for warning in said if "missing adapter keys" in str(warning.message)), None)
    if lacking is not None:
        raise ModelError(
            f"the adapter {folder!r} lacks weights; they would be random ({lacking.splitlines()[0][:120]})"
        )
    refuse_unmergeable(adapted)
    try:
        merged: torch.nn.Module = adapted.merge_and_unload(safe_merge=True)
    except Exception as error:
        raise ModelError(
            f"the adapter {folder!r} cannot be put into the weights of {type(base).__name__} ({first_line(error)}); load it with "
            "peft.PeftModel.from_pretrained and pass what that returns"
        ) from error
    return cast("PreTrainedModel", merged)


def refuse_unmergeable(module: torch.nn.Module) -> None:
    """Raise ModelError for adapters that are no change of weights: what they do depends on where a text begins, or on what a
    pass holds, and drafts are rows of a pass."""
    for config in _active(module):
        kind = str(getattr(config, "peft_type", "")).rpartition(".")[2]
        if getattr(config, "is_prompt_learning", False):
            raise ModelError(
                f"{type(module).__name__} puts learnt tokens in front of every text ({kind}), and cached texts have no place "
                "for them; use an adapter that changes weights, such as LoRA"
            )
        if getattr(config, "alora_invocation_tokens", None):
            raise ModelError(
                f"the adapter of {type(module).__name__} is active behind certain tokens only (alora_invocation_tokens), and "
                "looks for them in every pass, not in the text; use one without them"
            )


def _active(module: torch.nn.Module) -> list[Any]:
    """The configurations of the adapters that are in use."""
    known = getattr(module, "peft_config", None)
    if not isinstance(known, dict):
        return []
    names = getattr(module, "active_adapters", None)
    return [known[name] for name in (names if isinstance(names, list) else known) if name in known]
