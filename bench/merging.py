"""Does merging earn its place? The published order (GSD, arXiv 2407.16207) and every edge source, against a budgeted tree.

    python bench/merging.py [--part paper edges ahead] [--subject story code weak news "bundled news"] [--quick] [--resume]
    python bench/merging.py --clock        # wall-clock ratios only; wants a quiet machine, takes some minutes

paper  the published order with τ = 0 and 1 and without merging: what recurs, which evaluations are saved, what is accepted.
edges  the same passes and nodes, with and without every source of copies.
ahead  copies read in the same drafter pass, which later passes then need not read.

All three count, they take no time; see bench/along.py for how. Writes merging.json (which keeps the parts that are not measured
again), merging.md and merging.png into --out; with --quick merging-quick.*.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from transformers.utils import logging

from bench.along import Follower, Round
from bench.machine import ROOT, environment, load_average
from bench.merging_cases import CONDITIONS, PARTS, SUBJECTS, Loaded, Setup, Subject, load
from bench.merging_clock import ratios
from bench.merging_figures import key_of
from bench.merging_plot import plot
from bench.merging_report import markdown
from bench.pairs import MissingPairError
from bench.recurrence import ORDERS


@dataclass(frozen=True)
class Cell:
    """One way to draft in one condition.

    lengths, evaluations, passes  per text: accepted tokens (bonus not counted), rows that the drafter computed, and its
    passes per round, mean over its rounds. nodes  verified per round, over all rounds; merged  of them copies.
    by_source  share of the accepted tokens by origin and match length, "merge 2"; "drafter 0" is what it proposed itself.
    recurring, repeating  for n = 1, 2, 3: share of the nodes whose last n drafted tokens occur elsewhere in the draft, earlier.
    """

    part: str
    subject: str
    text: str
    temperature: float
    draft: str
    depth: int
    nodes_at_most: int
    lengths: list[float]
    evaluations: list[float]
    passes: list[float]
    rounds: int
    nodes: float
    merged: float
    by_source: dict[str, float]
    recurring: list[float]
    repeating: list[float]


def measure(loaded: Loaded, setup: Setup, kind: str, temperature: float, rounds: int) -> list[list[Round]]:
    """The first `rounds` of every text, in order."""
    follower = Follower(loaded.target, loaded.drafter, options_of(setup), setup.sampled, setup.fill)
    return [
        follower.follow(text, start, temperature, 1000 + number, setup.rounds or rounds)
        for number, (text, start) in enumerate(loaded.texts(kind, temperature))
    ]


def options_of(setup: Setup) -> dict[str, Any]:
    return setup.options | {"budget": setup.nodes, "num_speculative_tokens": setup.depth}


def cell(
    part: str, subject: str, kind: str, temperature: float, setup: Setup, texts: Sequence[Sequence[Round]]
) -> Cell:
    every = [one for rounds in texts for one in rounds]
    nodes, accepted = sum(one.nodes for one in every), sum(one.length for one in every)
    mass: Counter[str] = Counter()
    for one in every:
        mass.update({f"{source} {length}": value for (source, length), value in one.accepted.items()})
    counts = [
        [sum(one.recurring[i][which] for one in every) / max(1, nodes) for i in range(len(ORDERS))] for which in (0, 1)
    ]
    return Cell(
        part,
        subject,
        kind,
        temperature,
        setup.draft,
        setup.depth,
        setup.nodes,
        [round(statistics.fmean(one.length for one in rounds), 4) for rounds in texts],
        [round(statistics.fmean(one.evaluations for one in rounds), 4) for rounds in texts],
        [round(statistics.fmean(one.passes for one in rounds), 4) for rounds in texts],
        len(every),
        nodes / len(every),
        sum(one.merged for one in every) / len(every),
        {name: value / accepted for name, value in sorted(mass.items()) if value > 0.0},
        *counts,
    )


@dataclass(frozen=True)
class Job:
    """One setup in one condition; small enough to be handed to a process of its own."""

    part: str
    subject: int
    kind: str
    temperature: float
    setup: Setup
    data: Path
    prompts: int
    tokens: int
    rounds: int

    @property
    def key(self) -> tuple[Any, ...]:
        setup = self.setup
        name = SUBJECTS[self.subject].name
        return self.part, name, self.kind, self.temperature, setup.draft, setup.depth, setup.nodes

    def run(self) -> Cell:
        subject = SUBJECTS[self.subject]
        loaded = _loaded(self.subject, self.data, self.prompts, self.tokens)
        texts = measure(loaded, self.setup, self.kind, self.temperature, self.rounds)
        return cell(self.part, subject.name, self.kind, self.temperature, self.setup, texts)


@cache
def _loaded(subject: int, data: Path, prompts: int, tokens: int) -> Loaded:
    torch.set_num_threads(1)  # more only get in each other's way on models this small
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return load(SUBJECTS[subject], data, prompts, tokens)


def jobs(options: argparse.Namespace, subjects: Sequence[tuple[int, Subject]]) -> Iterator[Job]:
    """Condition by condition, and in each pair by pair, so that an interrupted run has something of every pair."""
    sizes = options.data, options.prompts, options.tokens, options.rounds
    for whole in (True, False):
        for kind, temperature in (CONDITIONS if whole else CONDITIONS[:-1])[: 2 if options.quick else None]:
            for number, subject in subjects:
                if subject.full == whole:
                    for part in options.part:
                        setups = PARTS[part](temperature, whole and not options.quick)
                        for setup in sorted(
                            setups, key=lambda setup: setup.nodes != 32
                        ):  # the middle of the grid first
                            yield Job(part, number, kind, temperature, setup, *sizes)


def run_all(every: Sequence[Job], processes: int) -> Iterator[Cell]:
    """The cells of all jobs in order, as they come."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, ExitStack() as stack:
        bar = progress.add_task("", total=len(every))
        done: Iterable[Cell] = map(Job.run, every)
        if processes > 1:
            done = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes)).imap(Job.run, every)
        for one in done:
            progress.update(bar, advance=1, description=f"{one.subject}, {one.text} T={one.temperature:g}")
            yield one


def available(options: argparse.Namespace) -> tuple[list[tuple[int, Subject]], list[str]]:
    """Subjects that can be measured here, and why the others cannot."""
    found, missing = [], []
    for number, subject in enumerate(SUBJECTS):
        if subject.name not in options.subject:
            continue
        try:
            load(subject, options.data, 1, options.tokens)
        except MissingPairError as error:
            missing.append(f"{subject.name}: {error}")
        else:
            found.append((number, subject))
    return found, missing


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure what merging and edges are worth.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--subject", nargs="+", choices=names, default=names)
    parser.add_argument("--prompts", type=int, default=6, help="texts per pair and condition")
    parser.add_argument("--tokens", type=int, default=40, help="of every text, behind which rounds start")
    parser.add_argument("--rounds", type=int, default=8, help="of every text at most")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--clock", action="store_true", help="measure times only, and add them to the report")
    parser.add_argument("--resume", action="store_true", help="keep what was measured with the same sizes before")
    parser.add_argument("--repeats", type=int, default=2, help="of every prompt, for --clock")
    parser.add_argument("--threads", type=int, default=2, help="for --clock; counting takes one per process")
    parser.add_argument("--quick", action="store_true", help="2 texts, the middle of the grid; writes merging-quick.*")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of test material")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args(arguments)
    if min(options.prompts, options.tokens, options.rounds, options.processes, options.repeats, options.threads) < 1:
        parser.error("counts must be at least 1")
    if options.quick:
        options.prompts, options.tokens = 2, 12
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = options.out / ("merging-quick.json" if options.quick else "merging.json")
    report = read(path)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.clock:
        add_times(report, options)
    else:
        add_cells(report, options, lambda: path.write_text(compact(report), encoding="utf-8"))
    write(report, path)
    print(f"written: {path}, .md")


def write(report: dict[str, Any], path: Path) -> None:
    """JSON, Markdown and picture."""
    path.write_text(compact(report), encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    plot(report["cells"], path.with_suffix(".png"))


def read(path: Path) -> dict[str, Any]:
    """What was measured before; the parts that are measured again replace theirs."""
    if path.is_file():
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return report
    return {"environment": {}, "settings": {}, "missing": [], "cells": [], "clock": []}


def compact(report: dict[str, Any]) -> str:
    """Readable JSON with one cell per line."""
    lines = ",\n".join(json.dumps(_rounded(cell), ensure_ascii=False) for cell in report["cells"])
    head = {key: value for key, value in report.items() if key != "cells"}
    return f'{json.dumps(head, indent=1, ensure_ascii=False)[:-2]},\n "cells": [\n{lines}\n]\n}}\n'


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def add_cells(report: dict[str, Any], options: argparse.Namespace, save: Callable[[], object] = lambda: None) -> None:
    """Count; `save` is called now and then, so that an interrupted run leaves what it has."""
    here = environment() | {"threads": 1, "processes": options.processes}
    subjects, report["missing"] = available(options)
    if not subjects:
        sys.exit(f"nothing to measure: {'; '.join(report['missing'])}")
    sizes = {name: getattr(options, name) for name in ("prompts", "tokens", "rounds")}
    wanted = list(jobs(options, subjects))
    keys = {job.key for job in wanted}
    if options.resume:
        same = [part for part in options.part if report["settings"].get(part) == sizes]
        keys -= {key_of(cell) for cell in report["cells"] if cell["part"] in same}
    report["cells"] = [cell for cell in report["cells"] if key_of(cell) not in keys]
    report["settings"] |= dict.fromkeys(options.part, sizes)
    report["resumed"] = report.get("resumed", False) or options.resume
    for number, one in enumerate(run_all([job for job in wanted if job.key in keys], options.processes), 1):
        report["cells"].append(asdict(one))
        report["environment"] |= dict.fromkeys(options.part, here | {"load_after": load_average()})
        if number % 16 == 0:
            save()


def add_times(report: dict[str, Any], options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    here = environment()
    tokens = 16 if options.quick else 64
    with Progress(*Progress.get_default_columns()[:1], TimeElapsedColumn()) as progress:
        bar = progress.add_task("")
        paces, missing = ratios(
            options.data,
            options.prompts,
            options.repeats,
            tokens,
            tell=lambda name: progress.update(bar, description=name),
        )
    report["clock"] = [asdict(pace) for pace in paces]
    report["missing"] = [*(line for line in report["missing"] if line not in missing), *missing]
    report["environment"]["clock"] = here | {"load_after": load_average()}
    report["settings"]["clock"] = {"prompts": options.prompts, "tokens": tokens, "repeats": options.repeats}


if __name__ == "__main__":
    main()
