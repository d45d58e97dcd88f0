"""Copies, a trained drafter, or copies first and else the drafter: how much does each give on a chat model?

    python -m experiments.in_order --model SmolLM2-135M-Instruct --drafter FOLDER --mode "openvino f32" [--prompts 2]

Plain decoding, lookup, the trained drafter without copies, and both in order answer held-out prompts of Spec-Bench's kinds in
turns, greedily and at temperature 1; with --genai FOLDER OpenVINO GenAI answers as well, plain and with its lookup. Writes
in_order-MODE.json and in_order-MODE.md into --out.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

import draftgraph as dg
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table
from experiments.in_order_ways import GENAI_DRAFTED, GenAi, Ours, Way

MODES: dict[str, dict[str, Any]] = {
    "torch f32": {"backend": "torch", "dtype": "float32"},
    "openvino f32": {"backend": "openvino", "dtype": "float32"},
    "openvino bf16": {"backend": "openvino", "dtype": "bfloat16"},
}
PLAIN, LOOKUP, TRAINED, BOTH = "plain", "lookup", "trained", "both"
GENAI_PLAIN, GENAI_LOOKUP = "GenAI plain", f"GenAI lookup ({GENAI_DRAFTED})"
TEMPERATURES = (0.0, 1.0)
LOOPING, GRAM = 0.25, 4
"""A text loops if more than this share of the runs of GRAM tokens in its plain greedy answer occurred in it before."""


@dataclass(frozen=True)
class Run:
    """One answer, once. Tokens, rounds and seconds are those after the first round, which reads the prompt.

    core  seconds of them in which the process had a core.
    """

    prompt: int
    kind: str
    temperature: float
    way: str
    ids: list[int]
    tokens: int
    rounds: int | None
    seconds: float
    core: float
    decisions: dict[str, int]


@dataclass(frozen=True)
class Row:
    """tokens  per target call, where it is known. ratio  plain seconds per token over those of the way: of all tokens
    together; core  the same in seconds of a core. low, high  10th and 90th percentile of the prompts. ms  per token.
    """

    texts: str
    temperature: float
    way: str
    prompts: int
    tokens: float | None
    ratio: float
    low: float
    high: float
    core: float
    ms: float


def ways(options: argparse.Namespace) -> dict[str, Way]:
    """Everybody who answers. The first of them reads prompts for all."""
    found: dict[str, Way] = {way: Ours(engine) for way, engine in engines(options).items()}
    if options.genai is not None:
        precision = options.mode.split()[-1]
        for way, looked_up in ((GENAI_PLAIN, False), (GENAI_LOOKUP, True)):
            found[way] = GenAi(options.genai, options.threads, precision, looked_up)
    return found


def engines(options: argparse.Namespace) -> dict[str, dg.Engine]:
    loading = MODES[options.mode]
    made = {
        PLAIN: dg.Engine.from_pretrained(options.model, budget=0, **loading),
        LOOKUP: dg.Engine.from_pretrained(options.model, drafter="lookup", **loading),
        TRAINED: dg.Engine.from_pretrained(options.model, draft_model=options.drafter, edges=(), **loading),
        BOTH: dg.Engine.from_pretrained(options.model, draft_model=options.drafter, **loading),
    }
    for way in (LOOKUP, TRAINED, BOTH):
        made[way].warm_up(refresh=True)
    return made


def prompts(data: Path, count: int) -> Iterator[tuple[str, str]]:
    """Kinds and texts of `count` prompts of each kind, the shorter ones first, for reading them is not measured."""
    file = data / "prompts" / "spec_bench_dev100.jsonl"
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for kind in dict.fromkeys(entry["category"] for entry in entries):
        yield from (
            (kind, text) for text in sorted((e["turns"][0] for e in entries if e["category"] == kind), key=len)[:count]
        )


def measure(options: argparse.Namespace) -> list[Run]:
    made, runs = ways(options), []
    asked = list(prompts(options.data, options.prompts))
    plain = made[PLAIN]
    assert isinstance(plain, Ours)
    read = [plain.engine.chat_prompt(text) for _, text in asked]
    for way in made.values():  # what is built at a first use is no part of any answer
        way.say(read[0], 1.0, 16)
    work = [(number, temperature) for number in range(len(asked)) for temperature in TEMPERATURES]
    for turn, (number, temperature) in enumerate(track(work, "in order")):
        names = list(made)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            said = made[name].say(read[number], temperature, options.tokens)
            if said.tokens:
                runs.append(Run(number, asked[number][0], temperature, name, **vars(said)))
    return runs


def looping(ids: Sequence[int]) -> bool:
    """Whether a text repeats itself."""
    runs = [tuple(ids[i : i + GRAM]) for i in range(len(ids) - GRAM + 1)]
    return bool(runs) and 1.0 - len(set(runs)) / len(runs) > LOOPING


def rows(runs: Sequence[Run]) -> list[Row]:
    loops = {run.prompt for run in runs if run.way == PLAIN and run.temperature == 0.0 and looping(run.ids)}
    groups = {
        "all": runs,
        "without loops": [run for run in runs if run.prompt not in loops],
        **{kind: [run for run in runs if run.kind == kind] for kind in dict.fromkeys(run.kind for run in runs)},
    }
    return [
        _row(texts, temperature, way, [run for run in group if run.temperature == temperature])
        for texts, group in groups.items()
        for temperature in TEMPERATURES
        for way in (PLAIN, LOOKUP, TRAINED, BOTH, GENAI_PLAIN, GENAI_LOOKUP)
        if any(run.temperature == temperature and run.way == way for run in group)
    ]


def _row(texts: str, temperature: float, way: str, runs: Sequence[Run]) -> Row:
    plain = {run.prompt: run for run in runs if run.way == PLAIN}
    mine = [run for run in runs if run.way == way and run.prompt in plain]
    ratios = [plain[r.prompt].seconds / plain[r.prompt].tokens / (r.seconds / r.tokens) for r in mine]
    cut = statistics.quantiles(ratios, n=10, method="inclusive") if len(ratios) > 1 else ratios * 9
    wall, core = (
        sum(getattr(plain[r.prompt], name) / plain[r.prompt].tokens for r in mine)
        / sum(getattr(r, name) / r.tokens for r in mine)
        for name in ("seconds", "core")
    )
    rounds = [r.rounds for r in mine if r.rounds is not None]
    tokens = sum(r.tokens for r in mine) / sum(rounds) if rounds else None
    ms = 1e3 * statistics.fmean(r.seconds / r.tokens for r in mine)
    return Row(texts, temperature, way, len(mine), tokens, wall, cut[0], cut[-1], core, ms)


def blocks(options: argparse.Namespace, found: Sequence[Row]) -> list[str | Sheet]:
    cells = [
        [
            row.texts, f"{row.temperature:g}", row.way, str(row.prompts), f"{row.tokens:.2f}" if row.tokens else "",
            f"{row.ratio:.2f} ({row.low:.2f}–{row.high:.2f})", f"{row.core:.2f}", f"{row.ms:.1f}",
        ]
        for row in found
    ]  # fmt: skip
    return [
        f"{options.mode}, {options.threads} thread(s), up to {options.tokens} tokens per answer, after the round that reads the "
        "prompt; everybody in turns. Times plain: mean seconds per token of plain decoding over those of the way, with the 10th "
        "and 90th percentile of the prompts; the same in seconds of a core.",
        table(
            ["texts", "temperature", "way", "prompts", "tokens per call", "times plain", "by core", "ms per token"],
            cells,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(
        "in_order", "Copies first, else a trained drafter", __doc__, "a prompt of each kind, 8 tokens"
    )
    add = experiment.parser.add_argument
    add("--model", type=Path, required=True, help="folder of a chat model")
    add("--drafter", type=Path, required=True, help="folder of the drafter that was trained for it")
    add("--mode", choices=list(MODES), default="openvino f32")
    add(
        "--genai", type=Path, default=None, help="also OpenVINO GenAI; a folder that experiments.looked_up --make wrote"
    )
    add("--prompts", type=at_least(1), default=2, help="of each kind")
    add("--tokens", type=at_least(4), default=96)
    options = experiment.start(arguments)
    if options.genai is not None and options.mode.startswith("torch"):
        experiment.parser.error('--genai runs on OpenVINO; take it beside --mode "openvino …"')
    if options.quick:
        options.prompts, options.tokens = 1, 8
    experiment.file = experiment.file.with_name(f"{experiment.file.name}-{options.mode.replace(' ', '-')}")
    runs = measure(options)
    found = rows(runs)
    settings = {name: getattr(options, name) for name in ("mode", "prompts", "tokens", "threads")}
    told = [asdict(run) for run in runs]
    print(experiment.save(blocks(options, found), settings=settings, rows=[asdict(row) for row in found], answers=told))


if __name__ == "__main__":
    main()
