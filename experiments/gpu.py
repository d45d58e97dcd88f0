"""What does draftgraph do on a GPU: passes eager and as CUDA graphs, round overhead, speeds, host reads, agreement in bf16?

    python -m experiments.gpu [--minutes 8] [--out FOLDER] [--quick] [--cpu]

Random targets in the shapes of Llama 1B and 8B, in bf16, with a drafter whose agreement is a dial (`experiments.peaked`). Writes
gpu.json and gpu.md into --out after every section. A section that fails is told in the report, and the others go on.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

import torch

from experiments import gpu_measures as measures
from experiments.experiment import Experiment
from experiments.gpu_measures import Row
from experiments.gpu_report import blocks
from experiments.gpu_stage import Stage

QUICK_MINUTES = 0.7
"""The most that --quick takes."""
GRACE_SECONDS = 10.0
"""A section that does not look at the time is stopped so long after its deadline."""


@dataclass
class Section:
    """name  of its rows in the report. share  of the time, relative to the others. rows  what was measured."""

    name: str
    measure: Callable[[Stage, float], Iterable[Row]]
    share: float
    rows: list[Row] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0


def sections() -> list[Section]:
    """In the order of what one wants to know first."""
    return [
        Section("machine", measures.machine, 0.03),
        Section("checks", measures.checks, 0.04),
        Section("passes 1B", partial(_of, measures.passes, "1B"), 0.10),
        Section("speeds 1B", partial(_of, measures.speeds, "1B"), 0.24),
        Section("reads 1B", partial(_of, measures.reads, "1B"), 0.04),
        Section("passes 8B", partial(_of, measures.passes, "8B"), 0.14),
        Section("speeds 8B", partial(_of, measures.speeds, "8B"), 0.26),
        Section("agreement 1B", partial(_of, measures.agreement, "1B"), 0.10),
        Section("contexts 8B", partial(_of, measures.contexts, "8B"), 0.12),
    ]


def _of(measure: Callable[[Stage, str, float], Iterable[Row]], size: str, stage: Stage, until: float) -> Iterable[Row]:
    return measure(stage, size, until)


def run(section: Section, stage: Stage, until: float) -> None:
    """Measure until the deadline; whatever goes wrong is kept as text."""
    begun = time.perf_counter()
    try:
        with _stopped(until + GRACE_SECONDS - begun):
            for row in section.measure(stage, until):
                section.rows.append(row)
    except Exception:
        section.error = traceback.format_exc(limit=-12)
        print(section.error, file=sys.stderr, flush=True)
    section.seconds = time.perf_counter() - begun


@contextmanager
def _stopped(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside after so many seconds, where the system has alarms."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("the section took too long")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: Sequence[str] | None = None) -> list[Section]:
    begun = time.perf_counter()
    experiment = Experiment(
        "gpu", "On a GPU: eager passes and CUDA graphs", __doc__, "tiny models, a look at everything"
    )
    experiment.parser.add_argument("--minutes", type=float, default=8.0, help="of the whole run, at most")
    experiment.parser.add_argument("--cpu", action="store_true", help="run the same code on the CPU, without graphs")
    options = experiment.start(arguments)
    if not options.cpu and not torch.cuda.is_available():
        experiment.parser.error("there is no GPU here; write --cpu to run the same code on the CPU")
    stage = Stage(torch.device("cpu" if options.cpu else "cuda"), options.quick)
    end = begun + 60.0 * min(options.minutes, QUICK_MINUTES if options.quick else options.minutes) - 2 * GRACE_SECONDS
    todo = sections()
    for number, section in enumerate(todo):
        left = max(0.0, end - time.perf_counter())
        share = section.share / sum(each.share for each in todo[number:])
        run(section, stage, time.perf_counter() + left * share)
        print(f"{section.name}: {len(section.rows)} rows in {section.seconds:.1f} s", flush=True)
        _save(experiment, todo[: number + 1], stage)
    print(f"{time.perf_counter() - begun:.0f} s; see {experiment.file}.md")
    return todo


def _save(experiment: Experiment, done: Sequence[Section], stage: Stage) -> None:
    if stage.device.type == "cuda":
        experiment.environment["gpu"] = torch.cuda.get_device_name()
        experiment.environment["gpu_memory_peak_GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    found = {section.name: section.rows for section in done}
    errors = {section.name: section.error for section in done if section.error}
    try:
        parts = blocks(found, errors)
    except Exception:  # the figures are worth more than their tables
        parts = [f"The tables failed: {traceback.format_exc(limit=-3)}"]
    seconds = {section.name: round(section.seconds, 1) for section in done}
    experiment.save(parts, sections=found, errors=errors, seconds=seconds)


if __name__ == "__main__":
    sys.exit(1 if all(section.error for section in main()) else 0)
