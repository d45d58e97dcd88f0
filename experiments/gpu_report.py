"""The report of the GPU experiment: rows to paragraphs and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from draftgraph.request.stats import PARTS
from draftgraph.view.sheet import Sheet
from experiments.gpu_measures import GENERATE, PLAIN, Row
from experiments.gpu_stage import EAGER, GRAPHS

LEGEND = (
    "Random weights, so texts mean nothing; forwards, laws and verification are real. T(n) is one pass of n rows with its one "
    "host read; device is the replay alone, in a burst. The floor is the bytes of the weights over the measured bandwidth of "
    "a copy. Agreement is the share of tokens for which drafter and target have the same likeliest successor. All runs of a "
    "table take turns in one process. Python's share of every part is included."
)
_PASS_COLUMNS = {
    "eager": (EAGER, "wall_ms"), "graphs": (GRAPHS, "wall_ms"), "graphs, device": (GRAPHS, "device_ms"),
    "graphs, first": (GRAPHS, "first_ms"),
}  # fmt: skip
"""Backend and figure of every column; the first pass of a bucket records it."""
CLASSES = ((0.0, "exact tie"), (1.0, "within 1 spacing"), (2.0, "within 2"), (4.0, "within 4"), (math.inf, "more"))


def blocks(found: Mapping[str, Sequence[Row]], errors: Mapping[str, str]) -> list[str | Sheet]:
    """Paragraphs and tables, in the order of the sections."""
    made: list[str | Sheet] = [LEGEND]
    for name, rows in found.items():
        if rows:
            made += _TABLES[name.split()[0]](name, rows)
        if name in errors:
            made.append(
                f"Section {name!r} failed: {errors[name].strip().splitlines()[-1]} (the traceback is in the JSON)."
            )
    return made


def _machine(name: str, rows: Sequence[Row]) -> Iterator[str | Sheet]:
    yield Sheet("The machine", ["what", "value"], [[key, _number(value)] for key, value in rows[0].items()], numbers=1)


def _checks(name: str, rows: Sequence[Row]) -> Iterator[str | Sheet]:
    lines = [
        [row["backend"], row["dtype"], *(_number(row[key]) for key in ("rows", "largest_difference", "argmax_differs"))]
        for row in rows
    ]
    title = "Logits of random trees, two requests a pass, against plain forwards over their paths"
    yield Sheet(title, ["backend", "dtype", "rows", "largest difference", "other argmax"], lines, numbers=3)


def _passes(name: str, rows: Sequence[Row]) -> Iterator[str | Sheet]:
    for model in ("target", "drafter"):
        by_rows: dict[int, dict[str, Row]] = {}
        for row in (row for row in rows if row["model"] == model):
            by_rows.setdefault(row["rows"], {})[row["backend"]] = row
        lines = [
            [
                str(n),
                *(_cell(each.get(backend), key) for backend, key in _PASS_COLUMNS.values()),
            ]
            for n, each in sorted(by_rows.items())
        ]
        floor = next((row["floor_ms"] for row in rows if row["model"] == model), math.nan)
        title = f"T(n) of the {model}, {rows[0]['size']}, ms; floor {_number(floor)}"
        yield Sheet(title, ["n", *_PASS_COLUMNS], lines, numbers=len(_PASS_COLUMNS))


def _contexts(name: str, rows: Sequence[Row]) -> Iterator[str | Sheet]:
    lines = [
        [str(row["context"]), row["backend"], str(row["rows"]), _cell(row, "wall_ms"), _cell(row, "device_ms")]
        for row in rows
    ]
    yield Sheet(
        f"Longer texts, {rows[0]['size']} target", ["context", "backend", "n", "ms", "device ms"], lines, numbers=3
    )


def _speeds(name: str, rows: Sequence[Row]) -> Iterator[str | Sheet]:
    columns = ["way", "tokens/s", "times plain", "tokens/round", "ms/round", *PARTS]
    for (agreement, temperature), group in groupby(rows, key=lambda row: (row["agreement"], row["temperature"])):
        lines, mine = [], list(group)
        plain = next(
            (row.get("tokens_per_s", math.nan) for row in mine if row["way"] == f"{PLAIN}, {GRAPHS}"), math.nan
        )
        for row in mine:
            if "error" in row:
                lines.append([f"{row['way']}: {row['error'][:60]}", *[""] * (len(columns) - 1)])
                continue
            parts = row.get("parts_ms", {})
            told = [row["tokens_per_s"], row["tokens_per_s"] / plain]
            told += (
                [row["tokens_per_round"], row["ms_per_round"]] if row["way"] != GENERATE else [1.0, row["ms_per_round"]]
            )
            lines.append([row["way"], *map(_number, told), *(_cell(parts, part) for part in PARTS)])
        title = f"{rows[0]['size']} target, agreement {agreement}, temperature {temperature:g}; parts in ms per round"
        yield Sheet(title, columns, lines, numbers=len(columns) - 1)


def _reads(name: str, rows: Sequence[Row]) -> Iterator[str | Sheet]:
    lines = [
        [
            row["way"],
            f"{row['temperature']:g}",
            _number(row["reads_per_round"]),
            _number(row["drafter_passes_per_round"]),
        ]
        for row in rows
    ]
    title = f"Times that the host waits for the device, per round, {rows[0]['size']}"
    yield Sheet(title, ["way", "temperature", "waits", "drafter passes"], lines, numbers=2)
    for row in rows[-1:]:
        places = [[place, _number(count)] for place, count in row["places"].items()]
        title = f"Where it waits: {row['way']}, temperature {row['temperature']:g}"
        yield Sheet(title, ["place", "per round"], places, numbers=1)


def _agreement(name: str, rows: Sequence[Row]) -> Iterator[str | Sheet]:
    lines = []
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        gaps = [row["gap_in_spacings"] for row in mine if not row["equal"]]
        equal = len(mine) - len(gaps)
        lines.append([way, f"{equal} of {len(mine)}", str(sum(row["same_tokens"] for row in mine)), *_classes(gaps)])
    columns = ["way", "equal texts", "tokens before", *(label for _, label in CLASSES)]
    title = (
        f"Greedy texts in bf16 against plain decoding with graphs, {rows[0]['size']}, where near-ties are everywhere"
    )
    yield Sheet(title, columns, lines, numbers=len(columns) - 1)
    yield (
        "First divergences by the gap of the two logits in one forward over the text before, in spacings of bf16 numbers at the "
        "best logit. Passes of different widths round differently, so near-ties may flip; anything wider would be a fault."
    )


def _classes(gaps: Sequence[float]) -> list[str]:
    counts, below = [], -math.inf
    for most, _ in CLASSES:
        counts.append(str(sum(below < gap <= most for gap in gaps)))
        below = most
    return counts


def _cell(row: Mapping[str, Any] | None, key: str) -> str:
    return _number(row[key]) if row is not None and key in row else "–"


def _number(value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


_TABLES: dict[str, Callable[[str, Sequence[Row]], Iterator[str | Sheet]]] = {
    "machine": _machine,
    "checks": _checks,
    "passes": _passes,
    "contexts": _contexts,
    "speeds": _speeds,
    "reads": _reads,
    "agreement": _agreement,
}
