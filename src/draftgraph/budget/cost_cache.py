"""Costs kept between processes: one small JSON file per pair, number of threads and device, in the user's cache folder.

A file of another machine or version, or a broken one, is measured again, and the note of the costs says so. A folder that
cannot be written, or no folder at all, is no error: it is logged once, and the costs are then measured once per process.
What is kept decides how much is drafted, and with that which text a seed gives under rules that read the drafter's laws: the
same one as long as the file stays. A file that was written while others used the machine is replaced by a better one, once the
others have had a while to finish: else every start on a busy machine would wait for a measurement that is no better.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from draftgraph.budget.costs import Costs
from draftgraph.files import BrokenFileError, read_text, write_whole
from draftgraph.strictjson import parse, seen
from draftgraph.user_cache import FOLDER, folder

VERSION = 16
"""To be raised when something else is measured, or the engine's own work per round has changed."""
PATIENCE_SECONDS = 120
"""How long costs of a busy machine are good enough."""
MOST_BYTES = 1 << 20
"""A larger file is no table of costs."""
_UNSAVED: dict[str, Costs] = {}
"""Measured in this process, for want of a folder that can be written."""
_MEASURED: set[str] = set()
"""Names of what was measured in this process."""
NOTES = "draftgraph.timing"
"""The logger that says when someone waits for a measurement."""
_TOLD: set[str] = set()
"""Reasons for that which were logged."""


def machine(device: torch.device) -> dict[str, str]:
    """What else the times depend on; a cache that differs in any of it is measured again."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    libraries = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"cpu": _cpu(), "accelerator": accelerator, "system": platform.platform(), **libraries}


def file_of(subject: Sequence[str], device: torch.device) -> Path | None:
    """The file of a subject's costs, written or not. None without a folder."""
    place = folder()
    return None if place is None else place / f"{_name(subject, device)}.json"


def _name(subject: Sequence[str], device: torch.device) -> str:
    known = "\n".join([*subject, str(device), str(torch.get_num_threads())])
    return f"costs-{hashlib.sha256(known.encode()).hexdigest()[:20]}"


def costs_of(
    subject: Sequence[str], device: torch.device, measure: Callable[[], Costs], refresh: bool = False
) -> Costs:
    """The costs of a `subject` (fingerprints and options that they depend on), from the cache or measured now.

    A table that was measured while others used the machine is measured again, once per process and PATIENCE_SECONDS, and the
    better one is kept.

    refresh  whether to measure whatever the cache holds.
    """
    name, path = _name(subject, device), file_of(subject, device)
    note, held = "measured now", None
    if path is not None and not refresh:
        try:
            held = Costs.from_dict(_read(path, machine(device)), f"read from {path.name}")
        except FileNotFoundError:
            pass
        except (OSError, BrokenFileError) as why:
            note = f"measured again: {_said(why)}"
    if not refresh and name in _UNSAVED:
        return _UNSAVED[name]
    if held is not None:
        if not held.busy or name in _MEASURED or _is_young(path):
            return held
        note = "measured again: others used the machine when it was measured"
    announce(path, note)
    _MEASURED.add(name)
    costs = replace(measure(), note=note)
    if held is not None and path is not None and _worth(held) <= _worth(costs):
        with suppress(OSError):
            path.touch()  # nobody tries again so soon
        return held
    return _kept(costs, name, path, machine(device))


def _is_young(path: Path | None) -> bool:
    """Whether a file was written a short while ago; one from the future was not."""
    try:
        return path is not None and 0 <= time.time() - path.stat().st_mtime < PATIENCE_SECONDS
    except OSError:
        return False


def announce(path: Path | None, note: str) -> None:
    """Say that a user waits, before it begins. Without a path the table is kept by nobody."""
    where = "" if path is None else f"; the table goes to {path}"
    again = f" ({note})" if note.startswith("measured again") else ""
    logging.getLogger(NOTES).warning(
        "timing these models on this machine, once, for some seconds or a dozen passes%s%s", where, again
    )


def _worth(costs: Costs) -> tuple[bool, float]:
    """Smaller is better: measured alone, then in less time."""
    return costs.busy, costs.target(1)


def _kept(costs: Costs, name: str, path: Path | None, here: dict[str, str]) -> Costs:
    """The costs, written to their file or, if that fails, kept for this process."""
    if costs.busy:  # kept all the same: within a process, decisions and the texts that seeds give shall not differ
        costs = replace(costs, note=f"{costs.note} while others used the machine; a later process measures again")
    _UNSAVED.pop(name, None)
    if why_not := _write(path, {"version": VERSION, "machine": here, "costs": costs.to_dict()}):
        costs = _UNSAVED[name] = replace(costs, note=f"{costs.note}; {why_not}")
        _say_once(why_not)
    return costs


class _StaleError(BrokenFileError):
    """A cache that is whole, but not of this machine and version."""


def _read(path: Path, here: dict[str, str]) -> Any:
    held = parse(read_text(path, MOST_BYTES))
    if not isinstance(held, dict) or not {"version", "machine", "costs"} <= held.keys():
        raise BrokenFileError("it lacks version, machine or costs")
    if held["version"] != VERSION:
        raise _StaleError(f"the cache has version {seen(held['version'])}, not {VERSION}")
    if not isinstance(held["machine"], dict):
        raise BrokenFileError(f"its machine is {seen(held['machine'])}, not an object")
    for what, value in here.items():
        if held["machine"].get(what) != value:
            raise _StaleError(
                f"the cache was written with {what} {seen(held['machine'].get(what))}, here it is {value}"
            )
    return held["costs"]


def _said(why: Exception) -> str:
    if isinstance(why, _StaleError):
        return str(why)
    return f"the cache cannot be read ({why.strerror if isinstance(why, OSError) else why})"


def _write(path: Path | None, values: dict[str, Any]) -> str:
    """Write a file whole or not at all; why it could not be written, empty if it was."""
    if path is None:
        return f"the costs cannot be kept: there is no home folder; set {FOLDER} to a folder"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(values))
    except OSError as error:
        return f"the costs cannot be kept: {str(path.parent)!r} cannot be written ({error.strerror})"
    return ""


def _say_once(why_not: str) -> None:
    """One warning per process and reason, however many pairs are measured."""
    if why_not not in _TOLD:
        _TOLD.add(why_not)
        logging.getLogger(__name__).warning("%s; they are measured again in every process", why_not)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return " ".join(
        [known.get("model name", platform.machine()), *[known[k] for k in ("cpu family", "model") if k in known]]
    )
