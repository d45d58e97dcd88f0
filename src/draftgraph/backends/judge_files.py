"""Heads of the rule that judges, on disk: a folder with card.json and judge.safetensors.

Tensors: weight, mean and scale f64[2 · width], bias f64[1], probe i64[n], known f32[n, width]; see `JudgeHead`.
The card says what the head reads, its threshold, the hash of the tensors' file, and what it was made from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from draftgraph.backends.checkpoint import Weights, read_safetensors, refuse_not_finite
from draftgraph.backends.taps import PREFIX
from draftgraph.errors import ModelError
from draftgraph.files import BrokenFileError, read_bytes, read_text
from draftgraph.strictjson import parse
from draftgraph.verification.published.judge import JudgeHead

CARD, TENSORS = "card.json", "judge.safetensors"
KIND, VERSION = "draftgraph-judge", 1
AGAIN = "fit it again (draftgraph judge fit), or copy the whole folder"


@dataclass(frozen=True)
class Judge:
    """A head, and the threshold that its card recommends."""

    head: JudgeHead
    threshold: float


def packed(head: JudgeHead, threshold: float, report: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a judge by name. report  what the head was made from, and how good it is: plain types."""
    tensors = {
        "weight": head.weight,
        "bias": torch.tensor([head.bias], dtype=torch.float64),
        "mean": head.mean,
        "scale": head.scale,
        "probe": torch.tensor(head.probe, dtype=torch.int64),
        "known": head.known,
    }
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    said = {
        "kind": KIND,
        "version": VERSION,
        "lossless": False,
        "tap": head.tap,
        "width": head.width,
        "threshold": threshold,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return {TENSORS: content, CARD: json.dumps(said | {"report": report}, indent=1).encode()}


def stamp_of(folder: Path) -> tuple[int, ...]:
    """What changes when the files do."""
    try:
        found = [(folder / name).stat() for name in (CARD, TENSORS)]
    except (OSError, ValueError):
        return ()
    return tuple(number for stat in found for number in (stat.st_mtime_ns, stat.st_size, stat.st_ino))


def read_judge(folder: Path) -> Judge:
    """The judge in a folder. Raises ModelError for files that are missing, broken, or not of one another."""
    card = _card(folder / CARD)
    try:
        content = read_bytes(folder / TENSORS)
    except OSError as error:
        raise ModelError(f"cannot read {folder / TENSORS}: {error.strerror or error}; {AGAIN}") from error
    tensors = read_safetensors(folder / TENSORS)
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise ModelError(f"{folder / TENSORS} is not the file that {CARD} beside it was written with; {AGAIN}")
    return Judge(_head(folder / TENSORS, tensors, card), card["threshold"])


def _card(file: Path) -> dict[str, Any]:
    try:
        said = parse(read_text(file))
    except OSError as error:
        raise ModelError(
            f"cannot read {file}: {error.strerror or error}; a judge is the folder that `draftgraph judge fit` writes"
        ) from error
    except BrokenFileError as error:
        raise ModelError(f"{file} is broken: {error}; {AGAIN}") from error
    if not isinstance(said, dict) or said.get("kind") != KIND:
        raise ModelError(f"{file} is not the card of a judge; name the folder that `draftgraph judge fit` wrote")
    if said.get("version") != VERSION:
        raise ModelError(f"{file} is of version {said.get('version')!r}, and version {VERSION} is read here; {AGAIN}")
    tap, width, threshold = said.get("tap"), said.get("width"), said.get("threshold")
    reads = isinstance(tap, str) and tap.startswith(PREFIX) and type(width) is int and width > 0
    judges = isinstance(threshold, int | float) and 0.0 <= threshold <= 1.0 and isinstance(said.get("sha256"), str)
    if not (reads and judges):
        raise ModelError(f"{file} is broken: tap={tap!r}, width={width!r}, threshold={threshold!r}; {AGAIN}")
    return said


def _head(file: Path, tensors: Weights, card: Mapping[str, Any]) -> JudgeHead:
    width, rows = int(card["width"]), len(tensors.get("probe", ()))
    shapes: dict[str, tuple[int, ...]] = {name: (2 * width,) for name in ("weight", "mean", "scale")}
    shapes |= {"bias": (1,), "probe": (rows,), "known": (rows, width)}
    for name in sorted(shapes.keys() | tensors.keys()):
        if name not in tensors or name not in shapes:
            raise ModelError(f"{file} {'lacks' if name in shapes else 'has unknown'} the tensor {name!r}; {AGAIN}")
        if tuple(tensors[name].shape) != shapes[name]:
            given, said = list(tensors[name].shape), list(shapes[name])
            raise ModelError(f"{file}: the tensor {name!r} has the shape {given}, not {said} as {CARD} says; {AGAIN}")
        refuse_not_finite(file, name, tensors[name])
    probe: list[int] = tensors["probe"].tolist()
    if rows < 2 or min(probe) < 0 or not bool((tensors["scale"] > 0).all()):
        raise ModelError(f"{file} is broken: it has {rows} known tokens, or scales that are not positive; {AGAIN}")
    wide = {name: tensors[name].double() for name in ("weight", "mean", "scale")}
    return JudgeHead(
        card["tap"],
        wide["weight"],
        float(tensors["bias"]),
        wide["mean"],
        wide["scale"],
        probe,
        tensors["known"].float(),
    )
