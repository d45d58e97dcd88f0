"""How long does a start take until the first token, and how much memory, on OpenVINO: the first time, and again?

    python -m experiments.start --model /path/to/SmolLM2-135M-Instruct [--threads 2] [--again 3] [--quick]

Every start is a process of its own, by the code of this file with --child. The first one has an empty cache and converts the
model; the later ones read what it has kept. Parts: importing (torch and transformers included), loading, reading or measuring
costs, the first token. The bars: a second start within 2 s, by the clock, from `Engine.from_pretrained` to the first token; peak
memory at most 1.4 times the packed weights plus caches. Writes start.json and start.md into --out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from draftgraph.view.sheet import Sheet

MODES: dict[str, dict[str, Any]] = {
    "f32": {},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"weights": "int8"},
    "int4": {"weights": "int4"},
}
PARTS = ("importing", "loading", "costs", "first token")
PROMPT = [1, 2, 3, 4]
SECONDS, MEMORY = 2.0, 1.4
"""The bars."""


@dataclass(frozen=True)
class Start:
    """One process. clock, work  seconds of the wall clock and of the processor, by part.

    peak    bytes that the process held at once, at most. before  that it held once everything was imported.
    anonymous  those of `peak` at the end that are no pages of files, which the system takes back when it needs them.
    packed  bytes of the weights as they are multiplied. caches  of keys and values.
    """

    clock: Mapping[str, float]
    work: Mapping[str, float]
    peak: int
    before: int
    anonymous: int
    packed: int
    caches: int

    def total(self, seconds: Mapping[str, float]) -> float:
        """From `Engine.from_pretrained` to the first token."""
        return sum(seconds[part] for part in PARTS[1:])

    @property
    def memory(self) -> float:
        """Peak over weights and caches."""
        return self.peak / (self.packed + self.caches)

    @property
    def own(self) -> float:
        """The same without what the libraries took before anything was loaded."""
        return (self.peak - self.before) / (self.packed + self.caches)


def child(model: str, threads: int, mode: str) -> Start:
    """Start here, in this process."""
    seconds = [(time.perf_counter(), time.process_time())]

    def lap() -> None:
        seconds.append((time.perf_counter(), time.process_time()))

    import torch

    import draftgraph as dg

    torch.set_num_threads(threads)
    make = dg.Engine.from_pretrained
    lap()
    before = held()
    engine = make(model, backend="openvino", **MODES[mode])
    lap()
    engine.warm_up()
    lap()
    engine.generate(PROMPT, max_new_tokens=1)
    lap()
    pairs = list(zip(PARTS, seconds, seconds[1:], strict=False))
    clock, work = ({part: end[i] - begin[i] for part, begin, end in pairs} for i in (0, 1))
    at_end = held()
    return Start(clock, work, at_end["VmHWM"], before["VmRSS"], at_end["RssAnon"], packed(mode), cached(engine.target))


def packed(mode: str) -> int:
    """Bytes of the weights in memory. In the cache folder, which holds one model, those for bfloat16 lie in float32."""
    kept = sum(file.stat().st_size for file in Path(os.environ["DRAFTGRAPH_CACHE"]).rglob("*.bin"))
    return kept // 2 if mode == "bf16" else kept


def cached(target: Any) -> int:
    """Bytes that a model on OpenVINO has for keys and values of short requests."""
    from draftgraph.backends.openvino.pool import CELLS, KEPT_BLOCKS

    pool = target.pool
    return sum(shape.heads * shape.width for shape in pool.shapes) * CELLS * KEPT_BLOCKS * pool.kind.itemsize


def held() -> dict[str, int]:
    """Bytes of memory that this process holds, as the system calls them. Linux only."""
    lines = (line.split() for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if words[-1:] == ["kB"]}


def start(model: str, threads: int, mode: str, cache: str) -> Start:
    """Start in a process of its own."""
    command = [sys.executable, "-m", "experiments.start", "--child", mode, "--model", model, "--threads", str(threads)]
    environment = os.environ | {"DRAFTGRAPH_CACHE": cache}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a start in {mode} failed:\n{done.stderr}")
    return Start(**json.loads(done.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Row:
    """Starts of one mode. first  whether the cache was empty. Figures are medians over the starts."""

    mode: str
    first: bool
    starts: Sequence[Start]

    def cells(self) -> list[str]:
        clock, work = (
            [f"{statistics.median(getattr(start, which)[part] for start in self.starts):.2f}" for part in PARTS]
            for which in ("clock", "work")
        )
        both = [f"{a} ({b})" for a, b in zip(clock, work, strict=True)]
        totals = [statistics.median(each.total(getattr(each, w)) for each in self.starts) for w in ("clock", "work")]
        memory = [statistics.median(getattr(each, name) for each in self.starts) for name in MEASURED]
        ratios = [f"{statistics.median(getattr(each, name) for each in self.starts):.2f}" for name in ("memory", "own")]
        named = [self.mode, "first" if self.first else f"again, {len(self.starts)} times"]
        return [
            *named,
            *both,
            f"{totals[0]:.2f} ({totals[1]:.2f})",
            *(f"{x / (1 << 20):.0f}" for x in memory),
            *ratios,
        ]


MEASURED = ("peak", "anonymous", "before", "packed", "caches")


def blocks(rows: Sequence[Row]) -> list[str | Sheet]:
    from experiments.experiment import table

    columns = ["computes", "start", *(f"{part} s" for part in PARTS), "from_pretrained to first token s"]
    columns += [
        "peak MiB",
        "of it anonymous",
        "after imports",
        "weights MiB",
        "caches MiB",
        "peak / (weights + caches)",
        "without imports",
    ]
    seconds = {
        row.mode: statistics.median(each.total(each.clock) for each in row.starts) for row in rows if not row.first
    }
    memory, own = (
        {row.mode: statistics.median(getattr(each, name) for each in row.starts) for row in rows if not row.first}
        for name in ("memory", "own")
    )
    return [
        "Seconds by the clock, and in brackets of the processor, in processes of their own. On a machine that others use, the "
        "processor's are those to trust. Peak memory is what the process held at once, imported libraries included; of its "
        "pages the anonymous ones are its own, and the others are pages of files.",
        table(columns, [row.cells() for row in rows]),
        f"Bars of a later start: {SECONDS:g} s by the clock ({_held(seconds, SECONDS)}), and {MEMORY:g} times packed weights "
        f"and caches ({_held(memory, MEMORY)}; without what was imported before, {_held(own, MEMORY)}).",
    ]


def _held(figures: Mapping[str, float], bar: float) -> str:
    return ", ".join(
        f"{mode} {'holds' if figure <= bar else 'MISSED'} with {figure:.2f}" for mode, figure in figures.items()
    )


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--child"]:  # which imports nothing that users would not
        mode, model, threads = given[1], given[3], int(given[5])
        print(json.dumps(asdict(child(model, threads, mode))))
        return
    from experiments.experiment import Experiment, at_least

    experiment = Experiment("start", "Starts", __doc__, "one later start, float32 only", threads=2)
    add = experiment.parser.add_argument
    add("--model", type=Path, required=True, help="folder of a model")
    add("--mode", nargs="+", choices=list(MODES), default=list(MODES))
    add("--again", type=at_least(1), default=3, help="later starts")
    options = experiment.start(arguments)
    if options.quick:
        options.mode, options.again = ["f32"], 1
    rows: list[Row] = []
    report = ""
    for mode in options.mode:
        with tempfile.TemporaryDirectory() as cache:
            made = [start(str(options.model), options.threads, mode, cache) for _ in range(1 + options.again)]
        rows += [Row(mode, True, made[:1]), Row(mode, False, made[1:])]
        report = experiment.save(blocks(rows), rows=[asdict(row) for row in rows])
    print(report)


if __name__ == "__main__":
    main()
