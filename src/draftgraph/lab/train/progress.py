"""What is shown while the pair trains: a line per stage."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from draftgraph.lab.train.loop import StageRun


def progress_bar(console: Console) -> Progress:
    """One line per stage with its loss and the time it has left."""
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[loss]} nats, {task.fields[tokens]} tokens"),
        TimeRemainingColumn(),
        console=console,
    )


def reporter(bar: Progress) -> Callable[[StageRun, float], None]:
    """Shows each training step in the stage's own line."""
    lines: dict[str, TaskID] = {}

    def report(stage: StageRun, loss: float) -> None:
        name = stage.stage.name
        if name not in lines:
            lines[name] = bar.add_task(name, total=1.0, loss="", tokens="")
        bar.update(
            lines[name],
            completed=min(1.0, stage.progress),
            loss=f"{loss:.3f}",
            tokens=f"{stage.position.tokens:,}",
        )

    return report
