"""Under which circumstances something was found of a kept graph, and what was found, beside the graph.

Kernels are chosen by the processor, by threads and by variables of the environment. What was found under circumstances is found
again under the same ones: the logits of a trial are among them, bit for bit, so that another choice of kernels shows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from draftgraph.files import BrokenFileError, read_text, write_whole
from draftgraph.strictjson import parse

PREFIXES = ("DNNL_", "ONEDNN_", "OV_", "OPENVINO_")
"""Beginnings of variables that kernels may be chosen by."""
_CHANGING = ("processor", "cpu MHz", "bogomips", "apicid", "initial apicid", "core id", "physical id")
"""What /proc/cpuinfo says of one core only, or otherwise every time."""
_MOST_BYTES = 64


def circumstances(trial: torch.Tensor) -> str | None:
    """A hash of the processor, its cores here, threads, environment and the bits of a trial's logits.

    None where the processor cannot be told: then nothing is known beforehand.
    """
    processor = _processor()
    if processor is None:
        return None
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith(PREFIXES))
    known = repr([processor, len(os.sched_getaffinity(0)), torch.get_num_threads(), variables, [*trial.shape]])
    return hashlib.sha256(known.encode() + trial.numpy().tobytes()).hexdigest()[:24]


def _processor() -> list[str] | None:
    """What Linux says of the first core."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except (OSError, UnicodeDecodeError):
        return None
    return [line for line in first.splitlines() if line.partition(":")[0].strip() not in _CHANGING]


def found_once(place: Path, known: str | None, answers: Sequence[int], look: Callable[[], int]) -> int:
    """What was found at a place under these circumstances, or is found now and kept if that is possible.

    known  the circumstances; None: nothing is believed. answers  what may be found; anything else is not believed.
    """
    if known is None:
        return look()
    file = place / f"steady-{known}.json"
    with contextlib.suppress(OSError, BrokenFileError):
        kept = parse(read_text(file, _MOST_BYTES))
        if type(kept) is int and kept in answers:
            return kept
    found = look()
    with contextlib.suppress(OSError):
        write_whole(file, json.dumps(found))
    return found
