"""A benchmark as a picture. Needs matplotlib, which is optional."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from draftgraph.lab.bench.summary import Row

NEEDS = "no picture: matplotlib is not installed; write `pip install matplotlib` and measure again"


def draw(rows: Sequence[Row], path: Path) -> bool:
    """Write how many times as fast everybody was, overall with intervals and by task; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    temperatures = list(dict.fromkeys(row.temperature for row in rows))
    tasks = list(dict.fromkeys(row.task for row in rows if row.task is not None))
    names = list(dict.fromkeys(row.contender for row in rows))
    height = 1.2 + 0.32 * len(names)
    columns = 1 + bool(tasks)
    figure, axes = pyplot.subplots(
        len(temperatures), columns, figsize=(6.5 * columns, height * len(temperatures)), squeeze=False
    )
    for panels, temperature in zip(axes, temperatures, strict=True):
        mine = [row for row in rows if row.temperature == temperature]
        places = {name: -i for i, name in enumerate(names)}
        for row in (row for row in mine if row.task is None):
            ratio = row.ratio
            colour = "tab:blue" if row.contender.startswith("draftgraph") else "tab:gray"
            error = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
            panels[0].errorbar(ratio.median, places[row.contender], xerr=error, fmt="o", color=colour, capsize=3)
        panels[0].set_yticks(list(places.values()), names, fontsize=7)
        panels[0].set_title(f"temperature {temperature:g}, median and 95 % interval", fontsize=9)
        for i, task in enumerate(tasks):
            its = [row for row in mine if row.task == task]
            panels[1].plot(
                [row.ratio.median for row in its], [places[row.contender] for row in its], "ox+s^vD*"[i % 8], label=task
            )
        if tasks:
            panels[1].set_yticks(list(places.values()), [""] * len(names))
            panels[1].set_title(f"temperature {temperature:g}, medians by task", fontsize=9)
            panels[1].legend(fontsize=7)
        for panel in panels:
            panel.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
            panel.set_xlabel("times as fast as transformers plain", fontsize=8)
            panel.set_xlim(left=0.0)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
