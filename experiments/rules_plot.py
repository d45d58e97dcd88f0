"""What `rules.py` measured, as pictures. Needs matplotlib, which is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHOWN = {
    ("level policy", "layer"): ("tab:blue", "-"),
    ("hybrid", "layer"): ("tab:blue", "--"),
    ("hybrid", "traversal"): ("tab:orange", "--"),
    ("hybrid", "recursive"): ("tab:green", "--"),
    ("without replacement", "recursive"): ("tab:green", "-"),
    ("i.i.d. paths", "multipath"): ("tab:red", "-"),
    ("i.i.d. paths", "layer"): ("tab:red", "--"),
    ("top-k, best first", "walk"): ("tab:gray", "-"),
    ("chain", "block"): ("black", "-"),
}
"""(draft, rule) pairs that are drawn, with colour and line style."""


def plot(rows: list[dict[str, Any]], file: Path) -> bool:
    """Write both pictures, `file`-gamma.png and `file`-nodes.png, one panel per pair and temperature.

    Returns False without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    for part, draw in (("gamma", _gamma), ("nodes", _nodes)):
        mine = [row for row in rows if row["part"] == part]
        if mine:
            draw(mine, file.with_name(f"{file.name}-{part}.png"))
    return True


def _gamma(rows: list[dict[str, Any]], path: Path) -> None:
    """Block over token by draft length, a line per temperature."""
    from matplotlib import pyplot

    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    figure, axes = pyplot.subplots(1, len(pairs), figsize=(5.2 * len(pairs), 3.6), squeeze=False, sharey=True)
    for panel, pair in zip(axes[0], pairs, strict=True):
        temperatures = sorted({row["temperature"] for row in rows if row["pair"] == pair})
        for t in temperatures:
            length = {
                (row["rule"], row["target_nodes"]): row["length"]
                for row in rows
                if (row["pair"], row["temperature"]) == (pair, t)
            }
            gammas = sorted({gamma for _, gamma in length})
            gains = [100 * (length["block", gamma] / length["token", gamma] - 1) for gamma in gammas]
            panel.plot(gammas, gains, marker=".", label=f"T = {t:g}", color=pyplot.cm.viridis(t / 1.2))
        panel.set_title(f"{pair} pair", fontsize=10)
        panel.set_xlabel("drafted tokens γ")
        panel.grid(alpha=0.3)
    axes[0][0].set_ylabel("block over token verification,\nmore tokens per target call, %")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _nodes(rows: list[dict[str, Any]], path: Path) -> None:
    """Expected tokens by node count, a line per draft and rule."""
    from matplotlib import pyplot

    panels = list(dict.fromkeys((row["pair"], row["temperature"]) for row in rows))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.6 * len(panels), 4.4), squeeze=False)
    for panel, (pair, t) in zip(axes[0], panels, strict=True):
        for (draft, rule), (colour, style) in SHOWN.items():
            mine = [
                row
                for row in rows
                if (row["pair"], row["temperature"], row["draft"], row["rule"]) == (pair, t, draft, rule)
            ]
            if mine:
                xs, ys = [row["nodes"] for row in mine], [row["length"] for row in mine]
                errors = [row["error"] for row in mine]
                panel.errorbar(xs, ys, yerr=errors, color=colour, linestyle=style, marker=".", label=f"{draft}, {rule}")
        panel.set_xscale("log", base=2)
        panel.set_xticks([8, 16, 32, 64], ["8", "16", "32", "64"])
        panel.set_title(f"{pair} pair, T = {t:g}", fontsize=10)
        panel.set_xlabel("verified nodes")
        panel.grid(alpha=0.3)
    axes[0][0].set_ylabel("expected tokens per target call")
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
