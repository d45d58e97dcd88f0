"""Files that training writes: whole or not at all, and a full disk says so."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from draftgraph.lab.train.errors import TrainingError


def write_bytes(file: Path, content: bytes) -> None:
    """Write beside the place of the file, then move it there. Raises TrainingError; an older file is then still whole."""
    half = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with half.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        half.replace(file)
    except OSError as error:
        raise TrainingError(
            f"cannot write {file}: {error.strerror}; what was written before is whole. Make room, then run the same command"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)


def write_state(file: Path, state: dict[str, Any]) -> None:
    """A checkpoint, for `read_state`. Raises TrainingError."""
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(file, content.getvalue())


def read_state(file: Path, device: torch.device) -> dict[str, Any] | None:
    """A checkpoint; None if there is none. Raises TrainingError for a broken one."""
    if not file.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(file, weights_only=True, map_location=device)
    except Exception as error:
        raise TrainingError(
            f"the checkpoint {file} is broken ({type(error).__name__}); delete it to begin anew"
        ) from error
    return state
