"""What every experiment has: a command line, the machine that it ran on, and the two files that it leaves."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.text import Text
from transformers.utils import logging

import draftgraph as dg
from draftgraph.lab.bench import machine
from draftgraph.lab.bench.record import to_json
from draftgraph.view.sheet import Cell, Sheet, to_markdown

ROOT = Path(__file__).resolve().parents[1]


class Experiment:
    """One experiment, from its command line to its two files.

    name      of the module, and of the files.
    title     of the report.
    doc       docstring of the module; its first line is the question.
    quick     what --quick does.
    threads   of torch, without --threads.
    """

    def __init__(self, name: str, title: str, doc: str | None, quick: str, threads: int = 1) -> None:
        self.name, self.title = name, title
        self.parser = argparse.ArgumentParser(
            prog=f"python -m experiments.{name}",
            description=(doc or "").partition("\n")[0],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        add = self.parser.add_argument
        add("--quick", action="store_true", help=f"{quick}; the files are called {name}-quick")
        add("--threads", type=at_least(1), default=threads, help="of torch")
        add("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of models and texts")
        add("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="folder of the files")

    def start(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """The options; sets up torch, and notes the machine as it is before anything runs."""
        options = self.parser.parse_args(arguments)
        torch.set_num_threads(options.threads)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.file = options.out / (f"{self.name}-quick" if options.quick else self.name)
        self.command = shlex.join([*self.parser.prog.split(), *(sys.argv[1:] if arguments is None else arguments)])
        self.environment = machine.environment(dg.__version__) | {"commit": _commit()}
        return options

    def save(self, blocks: Iterable[str | Sheet], **results: Any) -> str:
        """Write the results as JSON, and the paragraphs and tables as Markdown, which is returned.

        May be called again and again, so that an interrupted run leaves what it has.
        """
        self.environment["load_after"] = machine.load_average()
        report = {"environment": self.environment, **results}
        above = (_sentence(self.environment), f"Reproduce: `{self.command}`.")
        text = to_markdown(self.title, [Text(one) if isinstance(one, str) else one for one in (*above, *blocks)])
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.with_suffix(".md").write_text(text, encoding="utf-8")
        body = to_json(report) if "runs" in report else json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        self.file.with_suffix(".json").write_text(body, encoding="utf-8")
        return text


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that counts something."""

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not possible; write a whole number from {least}")
        return int(text)

    return count


def temperature(text: str) -> float:
    """The type of an option: above 0, where rules differ and predictions say something."""
    if not float(text) > 0.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not possible; write a temperature above 0")
    return float(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Sheet:
    """Without a title; all columns but the first are numbers."""
    return Sheet("", columns, list(rows), numbers=len(columns) - 1)


def _sentence(environment: dict[str, Any]) -> str:
    return (
        "{cpu} ({instructions}), {cores} cores, {threads} threads, {system}, load average {load_before} before and {load_after} "
        "after. Python {python}, torch {torch}, transformers {transformers}, draftgraph {draftgraph} at {commit}. {date}."
    ).format(**environment)


def _commit() -> str:
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "src", "experiments")
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"
    return f"commit {name}" + (", with changes that are not committed" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
