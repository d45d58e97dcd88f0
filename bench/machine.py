"""Where a measurement was made."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import draftgraph
from draftgraph.bench import machine
from draftgraph.bench.machine import load_average

__all__ = ["ROOT", "environment", "load_average", "sentence"]

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, Any]:
    """Machine, versions, date and commit, as they are reported beside every figure."""
    return machine.environment(draftgraph.__version__) | {"commit": _commit()}


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
