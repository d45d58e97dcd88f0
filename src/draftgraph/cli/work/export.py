"""draftgraph export at work."""

from __future__ import annotations

from pathlib import Path

import typer

from draftgraph.backends.eagle3_export import exported
from draftgraph.errors import OptionError
from draftgraph.lab.train.whole_files import write_bytes


def run(folder: Path, out: Path, layout: str, target: str | None) -> None:
    """Write the files, each whole or not at all. Raises ModelError, OptionError."""
    if out.resolve() == folder.resolve():
        raise OptionError(f"--out {str(out)!r} is the drafter's own folder; write another one")
    files = exported(folder, layout, target)
    for name, content in files.items():
        write_bytes(out / name, content)
    typer.echo(f"{out}: {', '.join(files)}, in the layout {layout!r}")
