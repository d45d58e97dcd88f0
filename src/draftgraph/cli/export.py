"""draftgraph export: a trained drafter in the layout of another engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from draftgraph.cli.program import app


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder of an EAGLE-3 drafter, in any layout.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    layout: Annotated[
        str, typer.Option("--layout", help="eagle3: as SpecForge, SGLang and vLLM read it; speculators: as vLLM does.")
    ] = "eagle3",
    target: Annotated[
        str | None, typer.Option("--target", help="The target's name, for speculators; else as the folder says.")
    ] = None,
) -> None:
    """Write an EAGLE-3 drafter in another layout, so that other engines run it."""
    from draftgraph.cli.work.export import run

    run(folder, out, layout, target)
