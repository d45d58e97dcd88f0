"""The speed-ups as a picture. Needs matplotlib, which is optional."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.report import Row


def draw(rows: Sequence[Row], path: Path) -> bool:
    """Write speed-ups with their 10–90 % intervals, a panel per pair and temperature; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pairs = list(dict.fromkeys(row.pair for row in rows))
    temperatures = list(dict.fromkeys(row.temperature for row in rows))
    figure, axes = pyplot.subplots(
        len(pairs), len(temperatures), figsize=(5.2 * len(temperatures), 4.4 * len(pairs)), squeeze=False
    )
    for panels, pair in zip(axes, pairs, strict=True):
        for panel, temperature in zip(panels, temperatures, strict=True):
            mine = [row for row in rows if (row.pair, row.temperature) == (pair, temperature)]
            for place, row in enumerate(mine):
                middle, low, high = row.speedup
                colour = "tab:gray" if row.contender.startswith("transformers") else "tab:blue"
                panel.errorbar(middle, -place, xerr=[[middle - low], [high - middle]], fmt="o", color=colour, capsize=3)
            panel.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
            panel.set_yticks([-place for place in range(len(mine))], [row.contender for row in mine], fontsize=7)
            panel.set_title(f"{pair} pair, temperature {temperature:g}", fontsize=9)
            panel.set_xlabel("speed-up over transformers plain (median, 10–90 %)", fontsize=8)
            panel.set_xlim(left=0.0)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
