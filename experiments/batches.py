"""How fast are many requests at once, with drafts and without, beside other engines?

    python -m experiments.batches [--model FOLDER] [--genai FOLDER] [--sizes 1 2 4 8 16 32] [--tokens 48] [--repeats 3] [--quick]

The bundled pair, or a model of your own with looked-up drafts. Everybody answers the same prompts, greedily, in turns, but for
those who take long with many: --padded-up-to. Texts are compared with those of requests alone. Writes batches.json and batches.md
(batches-MODEL with --model) into --out.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import draftgraph as dg
from draftgraph.data import bundled_pair
from draftgraph.lab.bench.prompts import BUNDLED, read_prompts
from draftgraph.request.stats import PARTS
from draftgraph.view.sheet import Sheet
from experiments.batch_contenders import BatchContender, EconomizeBatch, GenAI, Ours, Padded, Streamed
from experiments.experiment import Experiment, at_least, table
from experiments.quantised import messages

DRAFTED = 4
"""Nodes of the fixed chain, and tokens that economize drafts."""
PLAIN, AUTO = "draftgraph plain", "draftgraph, defaults"


@dataclass(frozen=True)
class Run:
    """One call: its seconds, and what came of it."""

    who: str
    size: int
    seconds: float
    tokens: int
    same: int
    rounds: int | None
    nodes: int
    waits: Sequence[float]
    gaps: Sequence[float]
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """Tokens per second, median over calls with the least and the most; `plain` its ratio to our plain batching.

    wait, gap  milliseconds to the first token and between tokens, medians over requests; None where nobody says.
    """

    who: str
    size: int
    pace: tuple[float, float, float]
    plain: float
    wait: float | None
    gap: float | None
    nodes: float
    same: int
    texts: int


def engines(model: Path | None, structure: Mapping[str, Any]) -> dg.Engine:
    """An engine of the model with looked-up drafts, or of the bundled pair."""
    if model is None:
        target, drafter = bundled_pair()
        return dg.Engine.from_pretrained(target, draft_model=drafter, **structure)
    return dg.Engine.from_pretrained(model, drafter="lookup", **structure)


def contenders(model: Path | None, genai: Path | None, threads: int) -> Iterator[BatchContender]:
    """Everybody who is here."""
    folder, drafter = (model, None) if model else bundled_pair()
    auto = engines(model, {})
    auto.warm_up()
    yield Ours(PLAIN, engines(model, {"budget": 0}))
    yield Ours(AUTO, auto)
    yield Ours(f"draftgraph, chain of {DRAFTED}", engines(model, {"budget": DRAFTED, "structure": "chain"}))
    yield Streamed("draftgraph, defaults, streamed", auto)
    yield Padded(folder)
    yield EconomizeBatch(folder, drafter, DRAFTED)
    if genai:
        yield GenAI(genai, threads)


def prompts_of(model: Path | None, data: Path, count: int) -> list[list[int]]:
    """Token ids: beginnings of Python code for the bundled pair, else chats to summarise, to edit and to answer from."""
    engine = engines(model, {"budget": 0})
    if model is None:
        texts = [entry.turns[0] for entry in read_prompts(BUNDLED).entries]
        found = [engine.tokenizer(text)["input_ids"] for text in texts]
    else:
        found = [engine.chat_prompt(text) for _, text in messages(data / "prompts", -(-count // 3))]
    return [found[i % len(found)] for i in range(count)]


def measured(who: BatchContender, prompts: Sequence[list[int]], alone: Sequence[list[int]], tokens: int) -> Run:
    gc.disable()
    try:
        begun = time.perf_counter()
        batch = who.answers(prompts, tokens)
        seconds = time.perf_counter() - begun
    finally:
        gc.enable()
    same = sum(found == own for found, own in zip(batch.ids, alone, strict=True))
    told = batch.rounds, batch.nodes, batch.waits, batch.gaps, batch.parts
    return Run(who.name, len(prompts), seconds, sum(map(len, batch.ids)), same, *told)


def row(who: str, size: int, runs: Sequence[Run], plain: Sequence[Run]) -> Row:
    paces = sorted(run.tokens / run.seconds for run in runs)
    ratios = [
        own.tokens / own.seconds * theirs.seconds / theirs.tokens for own, theirs in zip(runs, plain, strict=True)
    ]
    rounds = sum(run.rounds or 0 for run in runs)
    return Row(
        who,
        size,
        (statistics.median(paces), paces[0], paces[-1]),
        statistics.median(ratios),
        _milliseconds([wait for run in runs for wait in run.waits]),
        _milliseconds([gap for run in runs for gap in run.gaps]),
        sum(run.nodes for run in runs) / rounds if rounds else 0.0,
        sum(run.same for run in runs),
        sum(run.size for run in runs),
    )


def _milliseconds(seconds: Sequence[float]) -> float | None:
    return 1e3 * statistics.median(seconds) if seconds else None


def parts_of_a_round(runs: Sequence[Run]) -> dict[str, float]:
    """Milliseconds of a round by part, per request that takes part in it; "outside" is what no request was charged with."""
    rounds = sum(run.rounds or 0 for run in runs)
    parts = {part: sum(run.parts[part] for run in runs) for part in PARTS}
    parts["outside"] = sum(run.seconds for run in runs) - sum(parts.values())
    return {part: 1e3 * seconds / rounds for part, seconds in parts.items()}


def blocks(
    tokens: int, rows: Sequence[Row], parts: Mapping[int, Mapping[str, float]], about: str
) -> Iterator[str | Sheet]:
    yield (
        f"{about}, float32, greedy, {tokens} tokens for every request, reading the prompts included; everybody in turns. Tokens "
        "per second: median of the calls (least–most). The ratio to our own plain batching is a median over turns. Time to the "
        "first token: from when all were asked, median over requests. Time between tokens: of a request after its first event, "
        "divided by its later tokens. Same texts: those that are the text of the request alone."
    )
    yield table(
        [
            "who",
            "requests",
            "tokens per second",
            "× our plain",
            "ms to first token",
            "ms between tokens",
            "nodes per round and request",
            "same",
        ],
        map(_cells, rows),
    )
    yield (
        "A round of one request with the defaults, by part, in milliseconds, reading the prompts included. Passes that requests "
        "share are divided among them."
    )
    names = [*PARTS, "outside"]
    yield table(
        ["requests", *names], ([str(size), *(f"{ms[name]:.2f}" for name in names)] for size, ms in parts.items())
    )


def _cells(row: Row) -> list[str]:
    middle, low, high = row.pace
    wait, gap = ("" if ms is None else f"{ms:.{digits}f}" for ms, digits in ((row.wait, 0), (row.gap, 1)))
    pace = f"{middle:.0f} ({low:.0f}–{high:.0f})"
    return [
        row.who,
        str(row.size),
        pace,
        f"{row.plain:.2f}",
        wait,
        gap,
        f"{row.nodes:.1f}",
        f"{row.same} of {row.texts}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment("batches", "Many requests at once", __doc__, "1 and 2 requests, 8 tokens, one turn")
    add = experiment.parser.add_argument
    add("--model", type=Path, help="folder of a chat model, whose drafts are looked up; else the bundled pair")
    add("--genai", type=Path, help="the same weights as OpenVINO GenAI reads them")
    add("--sizes", type=at_least(1), nargs="+", default=[1, 2, 4, 8, 16, 32], help="requests at once")
    add("--tokens", type=at_least(2), default=48, help="per request")
    add("--repeats", type=at_least(1), default=3)
    add(
        "--padded-up-to",
        type=at_least(1),
        default=32,
        help="requests that transformers and economize are asked with at most",
    )
    options = experiment.start(arguments)
    if options.model:
        experiment.file = experiment.file.with_name(f"{experiment.file.name}-{options.model.name}")
    if options.quick:
        options.sizes, options.tokens, options.repeats = [1, 2], 8, 1
    torch.set_num_threads(options.threads)
    prompts = prompts_of(options.model, options.data, max(options.sizes))
    everybody = list(contenders(options.model, options.genai, options.threads))
    alone = [everybody[0].answers([prompt], options.tokens).ids[0] for prompt in prompts]
    runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for who in everybody:
        who.answers(prompts[:2], 4)  # a first call is cold
    turns = [(size, turn) for turn in range(options.repeats) for size in options.sizes]
    for size, turn in track(turns, "batches"):
        for who in everybody[:: -1 if turn % 2 else 1]:
            if size > options.padded_up_to and isinstance(who, Padded | EconomizeBatch):
                continue
            gc.collect()
            runs[who.name, size].append(measured(who, prompts[:size], alone[:size], options.tokens))
    rows = [
        row(who.name, size, runs[who.name, size], runs[PLAIN, size])
        for size in options.sizes
        for who in everybody
        if runs[who.name, size]
    ]
    parts = {size: parts_of_a_round(runs[AUTO, size]) for size in options.sizes}
    about = options.model.name + ", looked-up drafts" if options.model else "The bundled pair"
    told = {"settings": {"tokens": options.tokens, "repeats": options.repeats, "model": about}}
    text = experiment.save(
        blocks(options.tokens, rows, parts, about), **told, rows=[asdict(one) for one in rows], parts=parts
    )
    print(text)


if __name__ == "__main__":
    main()
