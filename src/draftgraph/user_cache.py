"""The user's cache folder, in which costs and converted models are kept between processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER = "DRAFTGRAPH_CACHE"
"""Environment variable that names the cache folder."""


def folder() -> Path | None:
    """Where things are kept: $DRAFTGRAPH_CACHE, or the platform's folder for caches. None without a home folder."""
    if named := os.environ.get(FOLDER):
        return _in_home(named)
    if sys.platform == "darwin":
        base = _in_home("~/Library/Caches")
    elif sys.platform == "win32":
        base = _in_home(os.environ.get("LOCALAPPDATA") or "~/AppData/Local")
    else:
        given = os.environ.get("XDG_CACHE_HOME", "")
        base = _in_home(given if os.path.isabs(given) else "~/.cache")  # the standard ignores a relative one
    return None if base is None else base / "draftgraph"


def _in_home(path: str) -> Path | None:
    """A path with its ~ expanded; None if nobody says where that home is, as in containers without a user entry."""
    expanded = os.path.expanduser(path)  # Path.expanduser raises where this leaves the ~
    return None if expanded.startswith("~") else Path(expanded)
