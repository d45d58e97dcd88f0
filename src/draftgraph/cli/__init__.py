"""The command line: arguments in, text out. One file per command; importing it registers it.

Command files are read before anything is asked, so they import neither torch nor transformers; what they do with them is in
`work`, which they import when they run.
"""

from __future__ import annotations

import os
import sys

from draftgraph.cli import (
    audit,
    beams,
    bench,
    chat,
    costs,
    demo,
    doctor,
    export,
    generate,
    judge,
    models,
    predict,
    prove,
    serve,
    table,
    train,
    view,
)
from draftgraph.cli.program import app

__all__ = [
    "app",
    "audit",
    "beams",
    "bench",
    "chat",
    "costs",
    "demo",
    "doctor",
    "export",
    "generate",
    "judge",
    "main",
    "models",
    "predict",
    "prove",
    "serve",
    "table",
    "train",
    "view",
]

_QUIET = {
    "TRANSFORMERS_VERBOSITY": "critical",
    "HF_HUB_VERBOSITY": "critical",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""Read by the libraries when they are imported; what the user has set stays."""


def main() -> None:
    """Entry point of the `draftgraph` command."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not stop the text
    app(prog_name="draftgraph")
