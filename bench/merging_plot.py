"""The study of merging as a picture. Needs matplotlib, which is optional."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.merging_cases import DEPTHS, FILLED, NEVER, SOURCES, gsd
from bench.merging_figures import Figures, gain

COLOURS = {gsd(NEVER): "black", gsd(0): "tab:red", gsd(1): "tab:orange", "best-first tree": "tab:blue"}


def plot(cells: Sequence[dict[str, Any]], path: Path) -> bool:
    """Per pair and condition: acceptance by evaluations above, gain of every source by passes below; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures = Figures(cells)
    places = [
        where
        for subject in ("story", "code")
        for where in figures.conditions("paper", subject) or figures.conditions("edges", subject)
    ]
    if not places:
        return False
    figure, axes = pyplot.subplots(2, len(places), figsize=(3.4 * len(places), 6.4), squeeze=False)
    for (above, below), where in zip(zip(*axes, strict=True), places, strict=True):
        _curves(above, figures, where)
        _gains(below, figures, where)
        above.set_title(f"{where[0]}, {where[1]} text, T={where[2]:g}", fontsize=9)
    axes[0][0].set_ylabel("accepted tokens per round", fontsize=8)
    axes[1][0].set_ylabel("gain over a tree of 32 nodes (± standard error)", fontsize=8)
    axes[0][0].legend(fontsize=7)
    axes[1][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _curves(panel: Any, figures: Figures, where: tuple[str, str, float]) -> None:
    """Acceptance by evaluations for 1 to 8 passes at the largest node count."""
    for name, colour in COLOURS.items():
        curve = figures.curve("paper", where, name)
        largest = max((cell["nodes_at_most"] for cell in curve), default=0)
        points = sorted(
            (statistics.fmean(cell["evaluations"]), statistics.fmean(cell["lengths"]))
            for cell in curve
            if cell["nodes_at_most"] == largest
        )
        if points:
            panel.plot(*zip(*points, strict=True), marker=".", color=colour, label=f"{name}, {largest} nodes")
    panel.set_xlabel("drafter evaluations per round", fontsize=8)


def _gains(panel: Any, figures: Figures, where: tuple[str, str, float]) -> None:
    """What every source adds to the tree of equal size; sources that were measured at one depth only are points."""
    for name in SOURCES:
        found = [
            (depth, one.value, one.error)
            for depth in DEPTHS
            if name != "none"
            and (
                one := gain(
                    figures.get("edges", where, f"{name}{FILLED}", depth, 32),
                    figures.get("edges", where, f"none{FILLED}", depth, 32),
                )
            )
        ]
        if found:
            depths, values, errors = zip(*found, strict=True)
            panel.errorbar(depths, values, yerr=errors, marker=".", capsize=2, label=name)
    panel.axhline(0.0, color="black", linewidth=0.6, linestyle=":")
    panel.set_xlabel("drafter passes", fontsize=8)
