"""Costs kept between processes: one small JSON file per pair, number of threads and device, in the user's cache folder.

A file of another machine or version, or a broken one, is measured again, and the note of the costs says so. A folder that
cannot be written is no error: the costs are then measured once per process. What is kept decides how much is drafted, and with
that which text a seed gives under rules that read the drafter's laws: the same one as long as the file stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from draftgraph.budget.costs import Costs

VERSION = 2
"""To be raised when something else is measured, or the engine's own work per round has changed."""
FOLDER = "DRAFTGRAPH_CACHE"
"""Environment variable that names the cache folder."""
SAMPLED_WEIGHTS = 8
_UNSAVED: dict[Path, Costs] = {}
"""Measured in this process, for want of a folder that can be written."""


def folder() -> Path:
    """Where costs are kept: $DRAFTGRAPH_CACHE, or the platform's folder for caches."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "draftgraph"


def machine(device: torch.device) -> dict[str, str]:
    """What else the times depend on; a cache that differs in any of it is measured again."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    libraries = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"cpu": _cpu(), "accelerator": accelerator, "system": platform.platform(), **libraries}


def fingerprint(model: torch.nn.Module) -> str:
    """A model's shape, type and (a few of) its weights, as a hash: another drafter of the same shape is another pair."""
    known = hashlib.sha256(type(model).__name__.encode())
    for name, weight in model.named_parameters():
        few = weight.detach().reshape(-1)[:SAMPLED_WEIGHTS].float().cpu()
        known.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + few.numpy().tobytes())
    return known.hexdigest()


def costs_of(subject: Sequence[str], device: torch.device, measure: Callable[[], Costs]) -> Costs:
    """The costs of a `subject` (fingerprints and options that they depend on), from the cache or measured now."""
    here = machine(device)
    name = hashlib.sha256("\n".join([*subject, str(device), str(torch.get_num_threads())]).encode()).hexdigest()[:20]
    path = folder() / f"costs-{name}.json"
    try:
        return Costs.from_dict(_read(path, here), f"read from {path.name}")
    except FileNotFoundError:
        note = "measured now"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as why:
        note = f"measured again: {_said(why)}"
    if path in _UNSAVED:
        return _UNSAVED[path]
    logging.getLogger(__name__).info("timing a pair on this machine, once; the table goes to %s", path)
    costs = measure()
    if costs.busy:
        costs = min(costs, measure(), key=lambda table: table.target(1))
    if costs.busy:  # kept all the same: decisions, and so the texts that seeds give, shall not differ from run to run
        note += f" while others were using the machine; to have it measured again delete {path}"
    costs = replace(costs, note=note)
    if not _write(path, {"version": VERSION, "machine": here, "costs": costs.to_dict()}):
        costs = _UNSAVED[path] = replace(costs, note=f"{note}; {path.parent} cannot be written")
    return costs


class _StaleError(ValueError):
    """A cache that is whole, but not of this machine and version."""


def _read(path: Path, here: dict[str, str]) -> Any:
    held = json.loads(path.read_text(encoding="utf-8"))
    if held["version"] != VERSION:
        raise _StaleError(f"the cache has version {held['version']}, not {VERSION}")
    for what, value in here.items():
        if held["machine"].get(what) != value:
            raise _StaleError(f"the cache was written with {what} {held['machine'].get(what)}, here it is {value}")
    return held["costs"]


def _said(why: Exception) -> str:
    return str(why) if isinstance(why, _StaleError) else f"the cache cannot be read ({type(why).__name__})"


def _write(path: Path, values: dict[str, Any]) -> bool:
    """Write a file whole or not at all; whether it worked."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    except OSError:
        return False
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(values, file)
        Path(partial).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(partial).unlink()
        return False
    return True


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return " ".join(
        [known.get("model name", platform.machine()), *[known[k] for k in ("cpu family", "model") if k in known]]
    )
