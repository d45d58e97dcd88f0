"""How many requests an engine decodes at once, and how much they may cache."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from draftgraph.backends.base import CausalLM
from draftgraph.draft.base import Drafter
from draftgraph.engine.config import Config
from draftgraph.errors import OptionError, require
from draftgraph.values import as_integer

SHARE_OF_FREE = 0.5
"""The part of the free memory that requests may cache, where nothing else was asked for."""


@dataclass(frozen=True)
class Serving:
    """How many requests are decoded at once, in `generate` with several prompts, `agenerate` and `astream`.

    max_batch  requests that are decoded together at most.
    memory     bytes that they may cache together, the drafter's cache included. "auto": half of what is free when the first
               request comes. `engine.load.cells_limit` says how many tokens that are.
    queue      requests that may wait beside them. One more is refused with QueueFullError.

    Raises OptionError for a value that is not possible.
    """

    max_batch: int = 32
    memory: int | str = "auto"
    queue: int = 1024

    def __post_init__(self) -> None:
        self._read("max_batch", 1, "an integer >= 1")
        self._read("queue", 0, "an integer >= 0")
        if not isinstance(self.memory, str) or self.memory != "auto":
            self._read("memory", 1, "a number of bytes, or 'auto'")

    def _read(self, name: str, least: int, possible: str) -> None:
        given: Any = getattr(self, name)
        count = as_integer(given)
        require(count is not None and count >= least, name, given, possible)
        object.__setattr__(self, name, count)

    def cells(self, target: CausalLM, drafter: Drafter) -> int:
        """Tokens that may be cached at once."""
        limit = SHARE_OF_FREE * free_memory(target.device) if self.memory == "auto" else int(self.memory)
        return int(limit // cell_bytes(target, drafter))


def serving_of(serving: Serving, config: Config) -> Serving:
    """The serving of an engine: where drafter and target of one request share the cores, requests take turns.

    Raises OptionError where several at once were asked for there.
    """
    if not config.parallel:
        return serving
    if serving.max_batch not in (1, Serving.max_batch):
        raise OptionError(
            f"max_batch={serving.max_batch} decodes requests together, and schedule='parallel' one at a time; leave max_batch "
            "out, or write schedule='sequential'"
        )
    return replace(serving, max_batch=1)


def taken(serving: Any, options: Mapping[str, Any]) -> tuple[Serving, dict[str, Any]]:
    """What is asked for by an object, changed by options of its fields' names; and all other options."""
    require(serving is None or isinstance(serving, Serving), "serving", serving, "a dg.Serving, or its fields by name")
    names = {field.name for field in fields(Serving)}
    own = {name: value for name, value in options.items() if name in names}
    others = {name: value for name, value in options.items() if name not in names}
    return replace(serving or Serving(), **own), others


def cell_bytes(target: CausalLM, drafter: Drafter) -> int:
    """Bytes that one token takes in the caches of target and drafter."""
    drafted = 0 if drafter.model is None else drafter.model.cell_bytes
    return max(1, target.cell_bytes + drafted)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            sizes = dict(line.split()[:2] for line in lines)
        return int(sizes["MemAvailable:"]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 4 << 30
