"""Speed of draftgraph against transformers, on the same weights in the same process.

    python bench/run.py [--pair bundled|story|all] [--temperature 0 0.6 1] [--quick]

Writes first.json (every run), first.md and, with matplotlib, first.png into --out; with --quick quick.* instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from transformers.utils import logging

from bench.clock import Run, fastest, measure
from bench.contenders import Task, variants
from bench.contenders import field as contenders
from bench.machine import ROOT, environment, load_average
from bench.pairs import ABOUT, MissingPairError, Pair, load_pair
from bench.plot import draw
from bench.report import markdown, summarise

TUNING_PROMPTS = 3


@dataclass
class Report:
    """Everything that is written; grows block by block (a block is one pair at one temperature)."""

    settings: dict[str, Any]
    environment: dict[str, Any]
    pairs: dict[str, Any] = field(default_factory=dict)
    tuned: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def enter(self, pair: Pair) -> None:
        prompts = [{"name": p.name, "source": p.source, "tokens": len(p.ids)} for p in pair.prompts]
        self.pairs[pair.name] = {"about": pair.about, "prompts": prompts}

    def write(self, folder: Path, name: str) -> None:
        """Markdown, JSON and picture; called after every block, so that an interrupted run leaves what it has."""
        self.environment["load_after"] = load_average()
        rows = summarise(self.runs)
        head = {key: value for key, value in vars(self).items() if key != "runs"}
        body = {"rows": [asdict(row) for row in rows], "run_fields": list(Run.__dataclass_fields__)}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(markdown(head, rows), encoding="utf-8")
        (folder / f"{name}.json").write_text(_compact(head | body, self.runs), encoding="utf-8")
        draw(rows, folder / f"{name}.png")


def _compact(head: dict[str, Any], runs: Sequence[Run]) -> str:
    """Readable JSON with one run per line."""
    lines = ",\n".join(json.dumps([_rounded(value) for value in vars(run).values()]) for run in runs)
    return f'{json.dumps(head, indent=1, ensure_ascii=False)[:-2]},\n "runs": [\n{lines}\n]\n}}\n'


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [round(part, 6) for part in value]
    return round(value, 6) if isinstance(value, float) else value


def measure_pair(
    pair: Pair, task: Task, repeats: int, report: Report, tell: Callable[[str], None] = lambda name: None
) -> None:
    """One block: tune what a user of transformers would tune, then measure the whole field."""
    tuned = []
    few = pair.prompts[:TUNING_PROMPTS]
    for kind, candidates in variants(pair, task).items():
        best, times = fastest(candidates, few, repeats, pair.name, task.temperature, tell)
        tuned.append(best)
        report.tuned.append(
            {"pair": pair.name, "temperature": task.temperature, "kind": kind, "best": best.name, "ms_per_token": times}
        )
    everybody = contenders(pair, task, tuned)
    report.runs += measure(everybody, pair.prompts, repeats, pair.name, task.temperature, tell)


def count_runs(prompts: int, repeats: int) -> int:
    """Runs of a block, warm-up included; only for the progress bar, so the field is taken as its usual size."""
    return 6 * (1 + min(prompts, TUNING_PROMPTS) * repeats) + 15 * (1 + prompts * repeats)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure draftgraph against transformers.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--pair", choices=[*ABOUT, "all"], default="all")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.6, 1.0], metavar="T")
    parser.add_argument("--prompts", type=int, default=12, help="prompts of a pair's own kind")
    parser.add_argument(
        "--humaneval", type=int, default=3, help="further prompts for the bundled pair, if they are there"
    )
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="3 prompts, 32 tokens, once; writes quick.*")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of test material")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--name", help="of the files written; first, or quick")
    options = parser.parse_args(arguments)
    if min(options.prompts, options.max_new_tokens, options.repeats, options.threads) < 1:
        parser.error("--prompts, --max-new-tokens, --repeats and --threads must be at least 1")
    if min(options.temperature) < 0:
        parser.error("--temperature must be 0 (greedy) or more")
    if options.quick:
        options.prompts, options.humaneval, options.max_new_tokens, options.repeats = 3, 0, 32, 1
    options.name = options.name or ("quick" if options.quick else "first")
    return options


def changed(options: argparse.Namespace) -> str:
    """The options that decide what is measured, as far as they are not the usual ones, to be typed again."""
    usual = vars(parse([]))
    if options.quick:
        return "--quick"
    said = []
    for name in ("pair", "temperature", "prompts", "humaneval", "max_new_tokens", "repeats", "threads"):
        value = getattr(options, name)
        if value != usual[name]:
            words = " ".join(f"{v:g}" for v in value) if isinstance(value, list) else value
            said.append(f"--{name.replace('_', '-')} {words}")
    return " ".join(said)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    settings = {
        "arguments": changed(options), "max_new_tokens": options.max_new_tokens, "repeats": options.repeats,
        "tuning_prompts": min(options.prompts, TUNING_PROMPTS),
    }  # fmt: skip
    report = Report(settings, environment())
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for name in ABOUT if options.pair == "all" else (options.pair,):
            try:
                pair = load_pair(name, options.data, options.prompts, options.humaneval)
            except MissingPairError as missing:
                report.skipped.append(str(missing))
                progress.console.print(f"skipped: {missing}")
                continue
            report.enter(pair)
            bars = {
                t: progress.add_task(f"{name} T={t:g}", total=count_runs(len(pair.prompts), options.repeats))
                for t in options.temperature
            }
            for temperature, bar in bars.items():
                task = Task(temperature, options.max_new_tokens)
                measure_pair(pair, task, options.repeats, report, lambda _, bar=bar: progress.advance(bar))  # type: ignore[misc]
                progress.update(bar, total=progress.tasks[bar].completed)
                report.write(options.out, options.name)
    report.write(options.out, options.name)
    print(f"written: {options.out / options.name}.md, .json")


if __name__ == "__main__":
    main()
