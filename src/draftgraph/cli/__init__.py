"""The command line: arguments in, text out. One file per subcommand; importing it registers it."""

from __future__ import annotations

import sys

from draftgraph.cli import bench, demo, doctor, generate, predict, prove, view
from draftgraph.cli.app import app

__all__ = ["app", "bench", "demo", "doctor", "generate", "main", "predict", "prove", "view"]


def main() -> None:
    """Entry point of the `draftgraph` command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not stop the text
    app()
