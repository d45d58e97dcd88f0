"""The one way in which commands read files of texts."""

from __future__ import annotations

from pathlib import Path

from draftgraph.cli.program import tell
from draftgraph.lab.bench.prompts import PromptFile, read_prompts


def read_file(path: Path) -> PromptFile:
    """The prompts of a file; lines that say nothing usable are told. Raises OptionError if nothing is left."""
    file = read_prompts(path)
    for broken in file.broken:
        tell(f"warning: {broken}; left out")
    return file
