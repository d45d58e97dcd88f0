"""The questions of the study and what the cells answer; every sentence is put together from figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.merging_cases import DEPTHS, FILLED, NEVER, NODES, SOURCES, gsd
from bench.merging_figures import Condition, Figures, Gain, gain, percent, saving, signed, span, tally, worth

FULL = ("story", "code")
"""Subjects with whole curves."""


def answers(figures: Figures, clock: Sequence[Mapping[str, Any]]) -> list[str]:
    out: list[str] = []
    if figures.subjects("paper"):
        out += [*_recurs(figures), *_saves(figures), *_beats(figures)]
    if figures.subjects("edges"):
        out += [*_fills(figures), *_best(figures)]
    if figures.subjects("ahead"):
        out += [*_reads_ahead(figures)]
    return out + list(_times(clock))


def _added(
    figures: Figures, where: Condition, depth: int, draft: str, base: str = f"none{FILLED}", nodes: int = 32
) -> Gain | None:
    """What one way to fill slots adds to another."""
    return gain(figures.get("edges", where, draft, depth, nodes), figures.get("edges", where, base, depth, nodes))


def _places(figures: Figures, part: str, subjects: Sequence[str] | None = None) -> list[Condition]:
    return [
        where
        for subject in figures.subjects(part)
        if subjects is None or subject in subjects
        for where in figures.conditions(part, subject)
    ]


def _recurs(figures: Figures) -> Iterator[str]:
    shares: dict[str, list[tuple[float, float]]] = {}
    for where in _places(figures, "paper"):
        for draft, depth, nodes in (
            ("4-ary", 3, 84),
            ("4-ary", 4, 340),
            ("best-first tree", 8, 16),
            ("best-first tree", 8, 32),
        ):
            cell = figures.get("paper", where, draft, depth, nodes)
            if cell is not None:
                shares.setdefault(f"{draft} of {nodes} nodes", []).append(tuple(cell["recurring"][:2]))
    said = [
        f"{name}: {span((a for a, _ in both), '{:.0%}'.format)} of single tokens, {span((b for _, b in both), '{:.0%}'.format)} "
        "of pairs"
        for name, both in shares.items()
    ]
    yield f"**Do hypotheses share their tokens?** Over all pairs and texts, {'; '.join(said)}."


def _saves(figures: Figures) -> Iterator[str]:
    yield "**Does merging save drafter evaluations?** At equal acceptance, over all pairs and texts:"
    for match in (NEVER, 0, 1):
        for name, against in (("the same order without merging", gsd(NEVER)), ("a best-first tree", "best-first tree")):
            found = []
            if gsd(match) == against:
                continue
            for where in _places(figures, "paper"):
                nodes = 64 if where[0] in FULL else 32
                cell = figures.get("paper", where, gsd(match), 8, nodes)
                others = figures.complete(where, against)
                if cell is not None and others:
                    found.append(saving(cell, others))
            if not found:
                continue
            reached = [one.value for one in found if one.value is not None]
            middle = f", median {percent(statistics.median(reached))}" if reached else ""
            yield (
                f"{gsd(match)}, against {name}: {tally(one.sign for one in found)}{middle}; "
                f"{len(found) - len(reached)} not reached by the other."
            )
        cells = [
            (cell, base)
            for where in _places(figures, "paper")
            for nodes in [64 if where[0] in FULL else 32]
            if (cell := figures.get("paper", where, gsd(match), 8, nodes)) is not None
            and (base := figures.get("paper", where, gsd(NEVER), 8, nodes)) is not None
        ]
        if cells and match != NEVER:
            ratios = [statistics.fmean(c["evaluations"]) / statistics.fmean(b["evaluations"]) - 1.0 for c, b in cells]
            gains = [one.value for c, b in cells if (one := gain(c, b)) is not None]
            yield (
                f"{gsd(match)}, not at equal but at its own acceptance: {span(ratios, percent)} evaluations (median "
                f"{percent(statistics.median(ratios))}) and {span(gains, signed)} accepted tokens, to never merging."
            )


def _beats(figures: Figures) -> Iterator[str]:
    places = _places(figures, "paper")
    for against in ("best-first tree", "level policy"):
        gains = [
            one
            for where in places
            for match in (0, 1)
            for nodes in NODES
            if (one := _gain(figures, where, gsd(match), against, nodes)) is not None
        ]
        if gains:
            yield (
                f"**Does the published order beat a budgeted tree?** Against {against}, same nodes, at most 8 passes: "
                f"it is {tally(one.sign for one in gains)} (τ, node counts, pairs, texts); accepted tokens per round "
                f"{span((one.value for one in gains), signed)}."
            )


def _gain(figures: Figures, where: Condition, draft: str, against: str, nodes: int) -> Gain | None:
    return gain(figures.get("paper", where, draft, 8, nodes), figures.get("paper", where, against, 8, nodes))


def _fills(figures: Figures) -> Iterator[str]:
    none, every = f"none{FILLED}", f"all{FILLED}"
    yield (
        "**Is filling spare slots with copies worth one to two drafter passes?** All slots spent either way, on nodes of the "
        "tree or on copies as well; over stories and code, natural and own text:"
    )
    for temperature in (0.0, 1.0):
        places = [where for where in _places(figures, "edges", FULL) if where[2] == temperature]
        said = []
        for depth in (1, 2, 3, 4, 8):
            gains = [one for where in places if (one := _added(figures, where, depth, every)) is not None]
            passes = [p for where in places if (p := worth(figures, where, every, none, depth, 32)) is not None]
            if gains and passes:
                values = span((one.value for one in gains), signed)
                said.append(f"D={depth}: {values} tokens, {span(passes, signed)} passes")
        if said:
            yield f"T={temperature:g}, N=32, default edges: {'; '.join(said)}."
    for name, draft, base in (("With all slots spent", every, none), ("As the engine does it", "all", "none")):
        gains = [
            one
            for where in _places(figures, "edges")
            for depth in (1, 2, 3, 4, 8)
            if (one := _added(figures, where, depth, draft, base)) is not None
        ]
        if gains:
            yield (
                f"{name}, N=32, all pairs, texts and depths, copies are {tally(one.sign for one in gains)}; mean gain "
                f"{signed(statistics.fmean(one.value for one in gains))} tokens per round."
            )
    slots = [
        one
        for where in _places(figures, "edges")
        for depth in (1, 2, 3, 4, 8)
        if (one := _added(figures, where, depth, none, "none")) is not None
    ]
    if slots:
        yield (
            "**Are the slots that the engine leaves empty worth a row?** Filling them with nodes of the tree alone is "
            f"{tally(one.sign for one in slots)}; mean gain {signed(statistics.fmean(one.value for one in slots))} tokens per "
            "round."
        )


def _best(figures: Figures) -> Iterator[str]:
    for temperature in (0.0, 1.0):
        mean = {}
        for name in SOURCES:
            gains = [
                one.value
                for where in _places(figures, "edges")
                if where[2] == temperature
                for depth in (2, 3)
                if (one := _added(figures, where, depth, f"{name}{FILLED}")) is not None
            ]
            if name != "none" and gains:
                mean[name] = statistics.fmean(gains)
        ordered = sorted(mean, key=lambda name: -mean[name])
        if not ordered:
            continue
        yield (
            f"**Which source is best?** Mean gain with 32 slots spent, D = 2 and 3, over all pairs and texts, T={temperature:g}: "
            + ", ".join(f"{name} {signed(mean[name])}" for name in ordered) + "."
        )  # fmt: skip


def _reads_ahead(figures: Figures) -> Iterator[str]:
    pairs = [
        (before, after)
        for where in _places(figures, "ahead")
        for depth in DEPTHS
        if (before := figures.get("ahead", where, "ahead 0", depth, 32)) is not None
        and (after := figures.get("ahead", where, "ahead 8", depth, 32)) is not None
    ]
    for temperature in (0.0, 1.0):
        mine = [(before, after) for before, after in pairs if before["temperature"] == temperature]
        if mine:
            passes, evaluations = (
                span((statistics.fmean(a[cost]) / statistics.fmean(b[cost]) - 1.0 for b, a in mine), percent)
                for cost in ("passes", "evaluations")
            )
            gains = span((one.value for b, a in mine if (one := gain(a, b)) is not None), signed)
            yield (
                f"**Does reading copies ahead save passes?** T={temperature:g}: passes {passes}, evaluations {evaluations}, "
                f"accepted tokens {gains}."
            )


def _times(clock: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not clock:
        yield "**On the clock**: not measured yet (`python bench/merging.py --clock`)."
    merged = [row for row in clock if row["contender"].startswith("gsd") and "never" not in row["contender"]]
    for baseline in ("chain 4", "tree 16"):
        if merged:
            ratios = span((row["faster"][baseline][0] for row in merged), "{:.2f}×".format)
            yield f"**On the clock**, the published order runs at {ratios} the speed of {baseline} (medians over turns)."
