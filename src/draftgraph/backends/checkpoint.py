"""Files of trained drafters, read strictly: what is missing, broken, of another shape or not finite is refused by name."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from draftgraph.errors import ModelError, first_line
from draftgraph.files import BrokenFileError, read_text

CONFIG, WEIGHTS, INDEX, PICKLE = "config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
Weights = dict[str, torch.Tensor]
Rules = Mapping[str, Callable[[], str]]
"""What must hold of a drafter's folder and its target, by name: says what was found, or raises ModelError or PairError."""


def config_of(folder: Path) -> dict[str, Any] | None:
    """What config.json says; None if there is none that is an object."""
    try:
        said = json.loads(read_text(folder / CONFIG))
    except (OSError, BrokenFileError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def read_weights(folder: Path) -> tuple[Path, Weights]:
    """The file that names the weights of a folder, and all of them: from safetensors, else from a pickle of tensors alone.

    Raises ModelError for files that are missing, truncated or broken, and for a pickle that holds code.
    """
    if (folder / WEIGHTS).exists() or not ((folder / INDEX).exists() or (folder / PICKLE).exists()):
        return folder / WEIGHTS, read_safetensors(folder / WEIGHTS)
    if (folder / INDEX).exists():
        return folder / INDEX, _read_parts(folder)
    return folder / PICKLE, _read_pickle(folder / PICKLE)


def read_safetensors(file: Path) -> Weights:
    try:
        return dict(safetensors.torch.load_file(file))
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
    except Exception as error:  # the library raises errors of its own, and others for sizes that make no sense
        raise ModelError(f"{file} is truncated or broken ({first_line(error)}); copy or train it again") from error


def _read_parts(folder: Path) -> Weights:
    """The weights of all files that the index names."""
    try:
        parts = sorted(set(json.loads(read_text(folder / INDEX))["weight_map"].values()))
    except (OSError, BrokenFileError, ValueError, RecursionError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{folder / INDEX} is broken ({first_line(error)}); copy it again") from error
    odd = [part for part in parts if not isinstance(part, str) or Path(part).name != part]
    if odd:
        raise ModelError(f"{folder / INDEX} names the file {odd[0]!r}, which does not lie beside it")
    return {name: weight for part in parts for name, weight in read_safetensors(folder / part).items()}


def _read_pickle(file: Path) -> Weights:
    try:
        read = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file} holds more than tensors, which could run code; save the weights as {WEIGHTS} and remove it"
        ) from error
    except Exception as error:  # a truncated archive, for example
        raise ModelError(f"{file} is truncated or broken ({first_line(error)}); copy it again") from error
    if not isinstance(read, dict) or not all(isinstance(weight, torch.Tensor) for weight in read.values()):
        raise ModelError(f"{file} holds no tensors by name; save the weights as {WEIGHTS}")
    return {str(name): weight for name, weight in read.items()}


@torch.no_grad()
def fill(file: Path, needed: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], by: str) -> None:
    """Copy weights into `needed`; every one must be there, of its shape and finite, and none beside them.

    by  what asks for them, in words.

    Raises ModelError.
    """
    refuse_misfit(file, needed, weights, by)
    for name, weight in needed.items():
        refuse_not_finite(file, name, weights[name])
        weight.copy_(weights[name])


def refuse_not_finite(file: Path, name: str, weight: torch.Tensor) -> None:
    if not weight.isfinite().all():
        raise ModelError(f"{file}: the weight {name!r} holds NaN or infinite numbers")


def refuse_misfit(file: Path, needed: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], by: str) -> None:
    """Raise ModelError for weights that are missing, unknown or of another shape; `needed` may lie on the meta device."""
    wrong = sorted(set(needed) ^ set(weights))
    if wrong:
        said = "lacks" if wrong[0] in needed else "has unknown"
        raise ModelError(f"{file} {said} the weight {wrong[0]!r}; {len(wrong)} names differ from {by}")
    for name, weight in needed.items():
        refuse_shape(file, name, weights[name], weight.shape, by)


def refuse_shape(file: Path, name: str, weight: torch.Tensor, shape: torch.Size, by: str) -> None:
    if weight.shape != shape:
        raise ModelError(f"{file}: the weight {name!r} has shape {list(weight.shape)}, and {by} asks for {list(shape)}")
