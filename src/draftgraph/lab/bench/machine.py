"""Where a measurement was made."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers

PEERS = ("economize", "openvino-genai", "llama-cpp-python", "vllm")
"""Packages whose versions are told if they are installed."""


def environment(version: str) -> dict[str, Any]:
    """Machine, versions and date, as they are reported beside every figure. version  of draftgraph."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": load_average(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "draftgraph": version,
    }


def peer_versions() -> dict[str, str]:
    """Versions of other decoders that are installed here."""
    found = {}
    for name in PEERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def load_average() -> float | None:
    """Of the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {name.strip(): value.strip() for name, value in fields.items()}
    family = f", family {known['cpu family']}" if "cpu family" in known else ""
    return known.get("model name", platform.machine()) + family
