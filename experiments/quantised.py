"""How much do looked-up drafts pay on a quantised model, whose text they do not change by a bit?

    python -m experiments.quantised --model /path/to/SmolLM2-135M-Instruct [--threads 2] [--mode "int8 bf16"] [--quick]

Plain decoding and drafts of several budgets answer the same prompts in turns: summaries, edits of code, questions about passages.
Texts are compared token by token. Writes quantised.json and quantised.md into --out.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import draftgraph as dg
from draftgraph.lab.turns import Answer, Timed, Turn, take_turns
from draftgraph.view.sheet import Sheet
from experiments.bitwise import MODES
from experiments.experiment import Experiment, at_least, table

WAYS: dict[str, int | str] = {"plain": 0, "3 nodes": 3, "5 nodes": 5, "9 nodes": 9, "auto": "auto"}
"""Budgets of chains that are looked up."""
WISHES = (
    "Rename the variables in this function and return the complete function.",
    "Add type hints to this function and return the complete function, with its docstring.",
)


@dataclass(frozen=True)
class Begun(Answer):
    """An answer whose first round is told apart: the prompt is read in it.

    first  its seconds. emitted  its tokens.
    """

    first: float = 0.0
    emitted: int = 0


@dataclass(frozen=True)
class Decoder:
    """An engine that takes turns."""

    name: str
    engine: dg.Engine
    tokens: int

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        result = self.engine.generate(list(prompt), max_new_tokens=self.tokens, ignore_eos=True, seed=seed)
        stats, first = result.stats, result.rounds[0]
        counts = (result.token_ids, stats.num_rounds, stats.num_verified_nodes, stats.seconds)
        return Begun(*counts, sum(first.seconds.values()), first.emitted)


@dataclass(frozen=True)
class Row:
    """Plain seconds per token over those of a way: median over turns, with the 10th and 90th percentile.

    after  the same without the first round, in which the prompt is read: median.
    ms  per token, median. length  tokens per target call. same  texts that are those of plain decoding.
    core  share of the time in which the thread had a core: below one somebody else had it, or a second thread did the work.
    """

    kind: str
    way: str
    ratio: tuple[float, float, float]
    after: float
    ms: float
    length: float
    same: int
    texts: int
    core: float


def messages(data: Path, count: int) -> Iterator[tuple[str, str]]:
    """Kinds and texts of `count` prompts of each kind."""
    bench, codes = (
        [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines()]
        for name in ("spec_bench_dev100.jsonl", "humaneval_dev64.jsonl")
    )
    for kind, category in (("summary", "summarization"), ("question", "rag")):
        found = [row["turns"][0] for row in bench if row["category"] == category]
        yield from ((kind, text) for text in sorted(found, key=len)[:count])
    for number, row in enumerate(codes[:count]):
        code = (row["prompt"] + row["canonical_solution"]).strip()
        yield "edit", f"{WISHES[number % len(WISHES)]}\n\n```python\n{code}\n```"


def rows(kinds: Sequence[str], turns: Sequence[Turn]) -> list[Row]:
    """Per kind of prompts, and over all."""
    return [
        _row(kind, way, [turn for turn in turns if kind in ("all", kinds[turn.prompt])])
        for kind in ("all", *dict.fromkeys(kinds))
        for way in WAYS
    ]


def _row(kind: str, way: str, turns: Sequence[Turn]) -> Row:
    ratios = sorted(turn.timed["plain"].pace / turn.timed[way].pace for turn in turns)
    runs = [turn.timed[way] for turn in turns]
    spread = statistics.quantiles(ratios, n=10, method="inclusive") if len(ratios) > 1 else ratios * 9
    return Row(
        kind,
        way,
        (statistics.median(ratios), spread[0], spread[-1]),
        statistics.median(_after_prompt(turn.timed["plain"]) / _after_prompt(turn.timed[way]) for turn in turns),
        1e3 * statistics.median(run.pace for run in runs),
        sum(len(run.answer.ids) for run in runs) / sum(run.answer.rounds for run in runs),
        sum(turn.timed["plain"].answer.ids == turn.timed[way].answer.ids for turn in turns),
        len(turns),
        sum(run.on_core for run in runs) / sum(run.seconds for run in runs),
    )


def _after_prompt(run: Timed) -> float:
    """Seconds per token after the first round."""
    answer = run.answer
    assert isinstance(answer, Begun)
    return (run.seconds - answer.first) / max(1, len(answer.ids) - answer.emitted)


def blocks(mode: str, tokens: int, found: Sequence[Row]) -> list[str | Sheet]:
    return [
        f"{mode}, greedy, {tokens} tokens per answer, reading the prompt included; everybody in turns. Ratios: seconds per token "
        "of plain decoding over those of the way, median over prompts, with the 10th and 90th percentile. After the prompt: the "
        "same without the first round, in which the prompt is read.",
        table(
            [
                "prompts",
                "way",
                "plain / way",
                "after the prompt",
                "ms per token",
                "τ",
                "same texts",
                "share of a core",
            ],
            map(_cells, found),
        ),
    ]


def _cells(row: Row) -> list[str]:
    middle, low, high = row.ratio
    figures = [f"{middle:.2f} ({low:.2f}–{high:.2f})", f"{row.after:.2f}", f"{row.ms:.2f}", f"{row.length:.2f}"]
    return [row.kind, row.way, *figures, f"{row.same} of {row.texts}", f"{row.core:.2f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment("quantised", "Drafts on a quantised model", __doc__, "one prompt of each kind, 8 tokens", 2)
    add = experiment.parser.add_argument
    add("--model", type=Path, required=True, help="folder of a chat model")
    add("--mode", choices=list(MODES), default="int8 bf16")
    add("--prompts", type=at_least(1), default=8, help="of each kind")
    add("--repeats", type=at_least(1), default=2)
    add("--tokens", type=at_least(1), default=96)
    options = experiment.start(arguments)
    if options.quick:
        options.prompts, options.repeats, options.tokens = 1, 1, 8
    torch.set_num_threads(options.threads)
    loading: dict[str, Any] = {"backend": "openvino", "drafter": "lookup", "bitwise": True} | MODES[options.mode]
    decoders = [
        Decoder(way, dg.Engine.from_pretrained(options.model, budget=budget, **loading), options.tokens)
        for way, budget in WAYS.items()
    ]
    decoders[-1].engine.warm_up()
    kinds, texts = zip(*messages(options.data / "prompts", options.prompts), strict=True)
    prompts = [decoders[0].engine.chat_prompt(text) for text in texts]
    count = options.repeats * len(prompts)
    turns = list(track(take_turns(decoders, prompts, count), "quantised", count))
    found = rows(kinds, turns)
    settings = {name: getattr(options, name) for name in ("mode", "prompts", "repeats", "tokens", "threads")}
    told = [asdict(row) for row in found]
    print(experiment.save(blocks(options.mode, options.tokens, found), settings=settings, rows=told))


if __name__ == "__main__":
    main()
