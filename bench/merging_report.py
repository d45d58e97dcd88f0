"""The study of merging as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.machine import sentence
from bench.merging_answers import answers
from bench.merging_cases import CONDITIONS, DEPTHS, FILLED, NEVER, NODES, PARTS, SOURCES, SUBJECTS, gsd
from bench.merging_clock import ABOUT, BASELINES
from bench.merging_figures import Cell, Condition, Figures, gain, key_of, saving, signed, worth
from bench.report import table

PAPER = (
    (
        "hypotheses share more than 70 % of the drafted tokens",
        "second-hand",
        "unpruned trees, single tokens: see Recurrence",
    ),
    ("about twice the drafted tokens of a chain, with higher acceptance", "second-hand", "see Published order"),
    (
        "1.73–1.96× (first version), 1.70–1.94× (ACL) on LLaMA-2-70B",
        "abstract",
        "ratios on this machine: see Wall clock",
    ),
)
"""Claims of the paper, where we have them from, and where ours stand. Its tables of results were not available to us."""


def markdown(report: Mapping[str, Any]) -> str:
    """`report` is the JSON object."""
    figures = Figures(report["cells"])
    out = ["# Does merging earn its place?", "", *_method(report, figures), ""]
    out += ["## In short", "", *(f"- {line}" for line in answers(figures, report.get("clock", []))), ""]
    if figures.subjects("paper"):
        out += [*_claims(), *_recurrence(figures), *_published(figures)]
    if figures.subjects("edges"):
        out += [*_grid(figures), *_sources(figures), *_lengths(figures)]
    if figures.subjects("ahead"):
        out += [*_ahead(figures)]
    if report.get("clock"):
        out += [*_clock(report["clock"])]
    for line in report["missing"]:
        out += [f"Left out: {line}.", ""]
    return "\n".join(out)


def _method(report: Mapping[str, Any], figures: Figures) -> Iterator[str]:
    yield from (f"{part}: {sentence(env)}\n" for part, env in report["environment"].items())
    if report.get("resumed"):
        yield "Counted in several runs, interrupted and resumed; load and commit above are those of the last one.\n"
    yield "Reproduce: `python bench/merging.py`, and `python bench/merging.py --clock` for the times.\n"
    seen = {name for part in ("paper", "edges", "ahead") for name in figures.subjects(part)}
    yield from (f"- **{subject.name}**: {subject.about}." for subject in SUBJECTS if subject.name in seen)
    yield ""
    yield (
        "All pairs are small (0.03–10 M parameters). Rounds run along a fixed text (bench/along.py), either natural or written "
        "by the target (own: greedy at T=0, sampled with a seed per text at T=1), so that all ways to draft meet the same text; "
        "greedy loops flatter every lookup, so read T=1 beside T=0. Figures are accepted tokens per round, the bonus token not "
        "counted: the expectation given the draft, mean over texts; ± is the standard error over texts, of paired differences "
        "where something is compared."
    )
    yield ""
    for part, settings in report["settings"].items():
        counted = (
            f"at most {settings.get('rounds')} rounds in each of {settings['prompts']} texts per pair and condition"
        )
        timed = f"{settings['prompts']} prompts, {settings.get('repeats')} times, {settings['tokens']} new tokens"
        yield f"{part}: {timed if part == 'clock' else counted}."
    yield ""
    gaps = list(_gaps(figures))
    if gaps:
        yield f"Not measured (`python bench/merging.py --resume` does): {'; '.join(gaps)}.\n"
    yield (
        "The published order is reproduced from descriptions and public code: its rules for growing, pruning and merging are "
        "kept, its defects are not (one remembered edge per node, cycles, a breadth-first cap of 100 nodes, a verification at "
        "T>0 that is not lossless)."
    )


def _gaps(figures: Figures) -> Iterator[str]:
    """What a whole run would have measured and this one has not."""
    have = {key_of(cell) for cell in figures.cells}
    for subject in SUBJECTS:
        for kind, temperature in CONDITIONS if subject.full else CONDITIONS[:-1]:
            found = []
            for part, setups in PARTS.items():
                every = [
                    (part, subject.name, kind, temperature, setup.draft, setup.depth, setup.nodes)
                    for setup in setups(temperature, subject.full)
                ]
                here = sum(key in have for key in every)
                found += [f"{len(every) - here} of {len(every)} of {part}"] * (here < len(every))
            if found:
                yield f"{subject.name}, {kind} text, T={temperature:g}: {', '.join(found)}"


def _claims() -> list[str]:
    head = ["the paper says", "source", "here"]
    return ["## The paper's claims", "", *table(head, PAPER), ""]


def _name(where: Condition) -> str:
    return f"{where[1]}, T={where[2]:g}"


def _recurrence(figures: Figures) -> Iterator[str]:
    yield "## Recurrence\n"
    yield (
        "Share of the nodes of a draft whose last n drafted tokens also end another node, for n = 1 / 2 / 3; in brackets the "
        "share that repeats an earlier node, which is what could be merged. All slots FIXED.\n"
    )
    wanted = [("4-ary", 3, 84), ("4-ary", 4, 340), ("2-ary", 5, 62), (gsd(NEVER), 8, 64)]
    wanted += [("best-first tree", 8, n) for n in (16, 32, 64)]
    for subject in figures.subjects("paper"):
        places = figures.conditions("paper", subject)
        lines = []
        for draft, depth, nodes in wanted:
            cells = [figures.get("paper", where, draft, depth, nodes) for where in places]
            if any(cells):
                lines.append([f"{draft}, depth {depth}, {nodes} nodes", *map(_shares, cells)])
        if lines:
            yield from [f"### {subject}", "", *table(["draft", *map(_name, places)], lines), ""]


def _shares(cell: Cell | None) -> str:
    if cell is None:
        return ""
    pairs = zip(cell["recurring"], cell["repeating"], strict=True)
    return " / ".join(f"{100 * shared:.0f} ({100 * repeated:.0f})" for shared, repeated in pairs)


def _published(figures: Figures) -> Iterator[str]:
    yield "## Published order\n"
    yield (
        "Accepted tokens per round, drafter evaluations (M) and passes per round, for at most 8 passes and the same number of "
        "verified nodes; differences are of accepted tokens. Saved: share of the evaluations (or passes) that the others would "
        "need for the same accepted length, interpolated along their own curves of 1 to 8 passes and 4 to 64 nodes; 90 % "
        "interval over resampled texts. Not reached: nothing on the other's curve accepts as much.\n"
    )
    for subject in figures.subjects("paper"):
        for where in figures.conditions("paper", subject):
            lines = list(_published_lines(figures, where))
            head = ["draft, nodes", "accepted", "to never merging", "to the best-first tree", "M", "passes"]
            head += ["M saved, to never merging", "M saved, to the tree", "passes saved, to the tree"]
            yield from [f"### {subject}, {_name(where)}", "", *table(head, lines), ""]


def _published_lines(figures: Figures, where: Condition) -> Iterator[list[str]]:
    never, trees = (figures.complete(where, name) for name in (gsd(NEVER), "best-first tree"))
    for name in (*map(gsd, (NEVER, 0, 1)), "best-first tree", "level policy"):
        for nodes in NODES:
            cell = figures.get("paper", where, name, 8, nodes)
            if cell is None:
                continue
            merging = name.startswith("gsd")
            accepted, *counts = _counts(cell)
            to_never, to_tree = (
                str(gain(cell, figures.get("paper", where, other, 8, nodes)) or "") if name != other else ""
                for other in (gsd(NEVER), "best-first tree")
            )
            differences = [to_never if merging else "", to_tree]
            saves = ["", "", ""]
            if merging:
                saves = [str(saving(cell, never)) if never and name != gsd(NEVER) else ""]
                saves += [str(saving(cell, trees, cost)) if trees else "" for cost in ("evaluations", "passes")]
            yield [f"{name}, {nodes}", accepted, *differences, *counts, *saves]
    for depth in (2, 4, 8):
        cell = figures.get("paper", where, "chain", depth, depth)
        if cell is not None:
            accepted, evaluations, passes = _counts(cell)
            yield [f"chain, {depth}", accepted, "", "", evaluations, passes, "", "", ""]


def _counts(cell: Cell) -> list[str]:
    means = [statistics.fmean(cell[name]) for name in ("lengths", "evaluations", "passes")]
    return [f"{means[0]:.2f}", *(f"{mean:.1f}" for mean in means[1:])]


def _grid(figures: Figures) -> Iterator[str]:
    yield "## Spare slots: nodes of the tree, or copies as well\n"
    yield (
        "D drafter passes at most, N verified nodes, spent as far as there are candidates (8 per row of the drafter, and "
        "copies). none: accepted tokens per round without edges "
        '(structure="tree"). all: what the default edges add to it (structure="graph"). At T=1 slots are SAMPLED (level policy, '
        "layer rule) and copies FIXED.\n"
    )
    for subject in figures.subjects("edges"):
        for where in figures.conditions("edges", subject):
            lines = []
            for depth in DEPTHS:
                line = [str(depth)]
                for nodes in NODES:
                    base = figures.get("edges", where, f"none{FILLED}", depth, nodes)
                    added = gain(figures.get("edges", where, f"all{FILLED}", depth, nodes), base)
                    line += [_length(base), str(added or "")]
                if any(line[1:]):
                    lines.append(line)
            head = ["D", *(f"N={nodes}, {name}" for nodes in NODES for name in ("none", "all"))]
            yield from [f"### {subject}, {_name(where)}", "", *table(head, lines), ""]


def _length(cell: Cell | None) -> str:
    return "" if cell is None else f"{statistics.fmean(cell['lengths']):.2f}"


def _sources(figures: Figures) -> Iterator[str]:
    yield "## Source by source\n"
    yield (
        "N = 32, all spent: what every source alone adds to the tree without edges; in brackets, how many further drafter passes "
        "would add as much. The last columns are the engine as it is, which leaves slots empty whose estimated mass is below "
        ".02: accepted tokens (nodes verified) without edges, what the default edges add, and drafter evaluations per round.\n"
    )
    none, names = f"none{FILLED}", [name for name in SOURCES if name != "none"]
    for subject in figures.subjects("edges"):
        for where in figures.conditions("edges", subject):
            lines = []
            for depth in DEPTHS:
                base = figures.get("edges", where, none, depth, 32)
                engine, edges = (figures.get("edges", where, name, depth, 32) for name in ("none", "all"))
                if base is None or engine is None or edges is None:
                    continue
                line = [str(depth), _length(base)]
                for name in names:
                    found = gain(figures.get("edges", where, f"{name}{FILLED}", depth, 32), base)
                    passes = worth(figures, where, f"{name}{FILLED}", none, depth, 32)
                    said = "" if passes is None else f" ({signed(passes)})"
                    line.append("" if found is None else f"{found}{said}")
                evaluations = (f"{statistics.fmean(cell['evaluations']):.1f}" for cell in (engine, edges))
                line += [
                    f"{_length(engine)} ({engine['nodes']:.0f})",
                    str(gain(edges, engine)),
                    " → ".join(evaluations),
                ]
                lines.append(line)
            head = ["D", "none", *names, "engine, none", "engine, all", "evaluations"]
            yield from [f"### {subject}, {_name(where)}", "", *table(head, lines), ""]


def _lengths(figures: Figures) -> Iterator[str]:
    widest = list(SOURCES)[-1]
    yield "## Accepted tokens by source and match length\n"
    yield (
        f"Sources: {widest}, N = 32, all spent: share of the accepted tokens in percent, by how many tokens had to agree "
        "(4: four or more; 0: the drafter's own proposals).\n"
    )
    places = [where for subject in figures.subjects("edges") for where in figures.conditions("edges", subject)]
    for depth in (2, 3):
        cells = {where: figures.get("edges", where, f"{widest}{FILLED}", depth, 32) for where in places}
        found = {where: cell["by_source"] for where, cell in cells.items() if cell is not None}
        names = sorted({name for shares in found.values() for name, share in shares.items() if share >= 0.0005})
        if names:
            head = [f"D={depth}", *(f"{where[0]}, {_name(where)}" for where in found)]
            lines = [[name, *(f"{100 * shares.get(name, 0.0):.1f}" for shares in found.values())] for name in names]
            yield from [*table(head, lines), ""]


def _ahead(figures: Figures) -> Iterator[str]:
    yield "## Copies read ahead\n"
    yield (
        "The engine as it is (N = 32, default edges), reading nothing ahead → eight copies in every drafter pass, which later "
        "passes then need not read: accepted tokens, and the drafter's passes and evaluations per round.\n"
    )
    lines = []
    for subject in figures.subjects("ahead"):
        for where in figures.conditions("ahead", subject):
            for depth in DEPTHS:
                pair = [figures.get("ahead", where, f"ahead {count}", depth, 32) for count in (0, 8)]
                before, after = pair
                if before is not None and after is not None:
                    counts = zip(_counts(before)[1:], _counts(after)[1:], strict=True)
                    evaluations, passes = (" → ".join(both) for both in counts)
                    place = f"{subject}, {_name(where)}"
                    lines.append([place, str(depth), _length(before), str(gain(after, before)), passes, evaluations])
    yield from [*table(["", "D", "accepted", "change", "passes", "evaluations"], lines), ""]


def _clock(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Wall clock\n"
    yield (
        "Everybody in turns, on the same prompt seconds apart. Times: baseline / this one within a turn, median and 10th to 90th "
        "percentile; above 1 is faster than the baseline. At T=1 tree and graph have SAMPLED slots, gsd FIXED ones.\n"
    )
    for pair in dict.fromkeys(row["pair"] for row in rows):
        for temperature in dict.fromkeys(row["temperature"] for row in rows if row["pair"] == pair):
            lines = []
            for row in rows:
                if (row["pair"], row["temperature"]) != (pair, temperature):
                    continue
                ratios = (
                    f"{middle:.2f} ({low:.2f}–{high:.2f})"
                    for middle, low, high in (row["faster"][name] for name in BASELINES)
                )
                lines.append([row["contender"], f"{row['ms_per_token']:.2f}", f"{row['length']:.2f}", *ratios])
            head = ["contender", "ms/token", "tokens per target call", *(f"to {name}" for name in BASELINES)]
            yield from [
                f"### {pair} ({ABOUT[pair]}), T={temperature:g}, {rows[0]['turns']} turns",
                "",
                *table(head, lines),
                "",
            ]
