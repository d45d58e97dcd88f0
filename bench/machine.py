"""Where a measurement was made."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import transformers

import draftgraph

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, Any]:
    """Machine, versions, date and commit, as they are reported beside every figure."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "draftgraph": draftgraph.__version__,
    }


def sentence(env: dict[str, Any]) -> str:
    """The environment as one line of a report."""
    load = f"load average {env['load_before']} before"
    if "load_after" in env:
        load += f" and {env['load_after']} after"
    return (
        f"{env['cpu']} ({env['instructions']}), {env['cores']} cores, {env['threads']} threads, {env['system']}, {load}. "
        f"Python {env['python']}, torch {env['torch']}, transformers {env['transformers']}, draftgraph {env['draftgraph']} "
        f"at {env['commit']}. {env['date']}."
    )


def load_average() -> float:
    return round(os.getloadavg()[0], 2)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {name.strip(): value.strip() for name, value in fields.items()}
    family = f", family {known['cpu family']}" if "cpu family" in known else ""
    return known.get("model name", platform.machine()) + family


def _commit() -> str:
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "src", "bench")
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"
    return f"commit {name}" + (", with changes that are not committed" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
