"""Is text with drafts bit for bit that of plain decoding, in bfloat16 and with quantised weights?

    python -m experiments.bitwise [--model /path/to/SmolLM2-135M-Instruct] [--tokens 20000] [--threads 2] [--quick]
    python -m experiments.bitwise --model ... --only-model --only-threads --threads 2 --contexts 40 700 1100 2000 --mode bf16

Everybody continues the same texts, of all lengths in --contexts, so that prompts are read in one piece and in several. Plain
decoding runs in batches; everybody else runs in batches too, or alone, with a part of the texts. Compared are tokens, and the
log-probabilities of tokens as the bits that they are. Controls must be able to differ: passes of one row, and trees in one
sequence. What an earlier run has found with as many tokens stays in the files. Writes bitwise.json and bitwise.md into --out.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import draftgraph as dg
from draftgraph.data import bundled_pair
from draftgraph.lab.bench.prompts import read_prompts
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table

CONTEXTS = (40, 100, 300, 700, 1780)
"""Tokens of the prompts, as far as the model's window allows; the longer ones are read in pieces."""
NEW = 256
"""Tokens per text."""
TOGETHER = 16
"""Requests of a batch."""
SOME = 0.1
"""The part of the texts that is decoded alone, and by controls."""
MODES: dict[str, dict[str, Any]] = {
    "bf16": {"dtype": "bfloat16"},
    "int8": {"weights": "int8"},
    "int4": {"weights": "int4"},
    "int8 bf16": {"weights": "int8", "dtype": "bfloat16"},
}


@dataclass(frozen=True)
class Way:
    """A way of decoding. options  of the engine. alone  whether requests come one by one; then they are SOME of the texts."""

    options: Mapping[str, Any]
    alone: bool = False

    def count(self, tokens: int) -> int:
        """Texts that are continued where so many tokens were asked for."""
        return math.ceil(tokens * (SOME if self.alone else 1.0) / NEW)


PLAIN: dict[str, Any] = {"budget": 0, "bitwise": True}
CHAIN: dict[str, Any] = {"structure": "chain", "budget": 6, "bitwise": True}
PATHS: dict[str, Any] = {"structure": "graph", "budget": 12, "bitwise": True}
WAYS = {
    "chain of 6": Way(CHAIN),
    "12 nodes as paths": Way(PATHS),
    "alone: plain": Way(PLAIN, alone=True),
    "alone: chain of 6": Way(CHAIN, alone=True),
    "alone: 12 nodes as paths": Way(PATHS, alone=True),
    "control: 12 nodes as one tree": Way(PATHS | {"bitwise": False}, alone=True),
    "control: passes of one row": Way(PLAIN | {"bitwise": False}, alone=True),
}
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "T=1, seeded": {"temperature": 1.0},
}
BUNDLED, OTHER = "bundled pair", "SmolLM2-135M, drafts looked up"
TEXTS = {BUNDLED: "stories_dev90.jsonl", OTHER: "spec_bench_dev100.jsonl"}


@dataclass
class Row:
    """One way of decoding beside plain decoding.

    asked   tokens that were asked for; ways that decode alone get SOME of them.
    texts   that were continued; other  of them that came out otherwise.
    tokens  compared: those of a text up to the first difference. bits  of them whose log-probability differs.
    largest difference of two log-probabilities. contexts  tokens of the prompts, as far as the window allows. new  per text.
    """

    model: str
    mode: str
    threads: int
    sampling: str
    way: str
    asked: int
    texts: int = 0
    other: int = 0
    tokens: int = 0
    bits: int = 0
    largest: float = 0.0
    rounds: int = 0
    contexts: Sequence[int] = CONTEXTS
    new: int = NEW

    @property
    def key(self) -> tuple[Any, ...]:
        return self.model, self.mode, self.threads, self.sampling, self.way, tuple(self.contexts)

    def enter(self, plain: dg.Result, result: dg.Result) -> None:
        pairs = list(zip(plain.token_ids, result.token_ids, strict=True))
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        assert plain.logprobs is not None
        assert result.logprobs is not None
        apart = [abs(a - b) for a, b in zip(plain.logprobs[:same], result.logprobs[:same], strict=True)]
        self.texts += 1
        self.other += same < len(pairs)
        self.tokens += same
        self.bits += sum(difference > 0.0 for difference in apart)
        self.largest = max([self.largest, *apart])
        self.rounds += result.stats.num_rounds


def prompts(engine: dg.Engine, file: Path, count: int, contexts: Sequence[int]) -> list[list[int]]:
    """Stretches of the texts of a file, of all lengths in turn."""
    assert engine.tokenizer is not None
    stream = [token for text in read_prompts(file).texts for token in engine.tokenizer(text + "\n\n")["input_ids"]]
    window = engine.target.context_window or len(stream)
    lengths = [min(length, window - NEW - 1) for length in contexts]
    starts = ((977 * i) % (len(stream) - max(lengths)) for i in range(count))
    return [stream[start : start + lengths[i % len(lengths)]] for i, start in enumerate(starts)]


def engine_of(model: str, source: Path | None, mode: str, way: Way) -> dg.Engine:
    """The engine of a way; all engines of a model and mode share the graph."""
    target, drafter = bundled_pair() if source is None else (source, None)
    options: dict[str, Any] = {"draft_model": drafter, "backend": "openvino", "rule": "agree"} | MODES[mode]
    return dg.Engine.from_pretrained(target, max_batch=TOGETHER, **options, **way.options)


def measure(rows: Sequence[Row], source: Path | None, data: Path) -> None:
    """Fill the rows of one model, mode, number of threads and way of sampling."""
    first = rows[0]
    torch.set_num_threads(first.threads)
    plain = engine_of(first.model, source, first.mode, Way(PLAIN))
    made = {row.way: engine_of(first.model, source, first.mode, WAYS[row.way]) for row in rows}
    count = max(WAYS[row.way].count(row.asked) for row in rows)
    texts = prompts(plain, data / "prompts" / TEXTS[first.model], count, first.contexts)
    for start in range(0, count, TOGETHER):
        numbers = range(start, min(start + TOGETHER, count))
        params = [
            dg.SamplingParams(NEW, seed=number, ignore_eos=True, logprobs=True, **SAMPLING[first.sampling])
            for number in numbers
        ]
        batch = [texts[number] for number in numbers]
        expected = plain.generate(batch, params)
        for row in rows:
            way = WAYS[row.way]
            part = max(0, min(len(batch), way.count(row.asked) - start))
            for other, result in zip(expected, decode(made[row.way], way, batch[:part], params[:part]), strict=False):
                row.enter(other, result)


def decode(
    engine: dg.Engine, way: Way, batch: Sequence[list[int]], params: Sequence[dg.SamplingParams]
) -> list[dg.Result]:
    """The results of these requests, one by one or together."""
    if way.alone:
        return [engine.generate(text, each) for text, each in zip(batch, params, strict=True)]
    return engine.generate(batch, params) if batch else []


def cases(options: argparse.Namespace) -> Iterator[list[Row]]:
    """The rows to be measured, in groups that share their engines."""
    models = [BUNDLED] if options.model is None else [OTHER] if options.only_model else [BUNDLED, OTHER]
    threads = range(options.threads if options.only_threads else 1, options.threads + 1)
    for model, sampling, count, mode in product(models, SAMPLING, threads, options.mode):
        yield [Row(model, mode, count, sampling, way, options.tokens, contexts=options.contexts) for way in WAYS]


def found(file: Path) -> dict[tuple[Any, ...], Row]:
    """What an earlier run has found."""
    if not file.is_file():
        return {}
    names = {field.name for field in fields(Row)}
    kept = json.loads(file.read_text(encoding="utf-8"))["rows"]
    rows = [Row(**{name: value for name, value in row.items() if name in names}) for row in kept]
    return {row.key: row for row in rows}


def blocks(rows: Sequence[Row]) -> list[str | Sheet]:
    controls = [row for row in rows if row.way.startswith("control")]
    ours = [row for row in rows if row not in controls]
    wrong = [row for row in ours if row.other or row.bits]
    tokens = sum(row.tokens for row in ours)
    differing = sum(row.other > 0 or row.bits > 0 for row in controls)
    return [
        f"Text with drafts beside that of plain decoding, {_texts(rows)} tokens per text, rule `agree`. Contexts have "
        f"{_listed(rows)} tokens, as far as the model's window allows. A token counts up to the first difference "
        "of its text. Bits: tokens whose log-probability is another float32. Plain decoding, which all are compared with, and "
        f"ways that are not marked decode {TOGETHER} requests together. Those that decode alone, and controls, are given "
        f"{SOME:.0%} of the texts.",
        f"{tokens:,} tokens were compared; {len(ours) - len(wrong)} of {len(ours)} rows have no difference at all. "
        f"{differing} of {len(controls)} controls differ, which shows that the comparison can see it.",
        table(
            [
                "model",
                "computes",
                "threads",
                "sampling",
                "way",
                "longest",
                "texts that differ",
                "tokens",
                "bits",
                "apart",
                "τ",
            ],
            [_cells(row) for row in rows],
        ),
    ]


def _listed(rows: Sequence[Row]) -> str:
    """The lengths of contexts, for every list of them that rows have."""
    return " or ".join(", ".join(map(str, each)) for each in dict.fromkeys(tuple(row.contexts) for row in rows))


def _texts(rows: Sequence[Row]) -> str:
    return " or ".join(str(new) for new in dict.fromkeys(row.new for row in rows))


def _cells(row: Row) -> list[str]:
    length = f"{row.texts * row.new / row.rounds:.2f}"
    texts = f"{row.other} of {row.texts}"
    named = [row.model, row.mode, str(row.threads), row.sampling, row.way, f"{max(row.contexts):,}"]
    return [*named, texts, f"{row.tokens:,}", f"{row.bits:,}", f"{row.largest:.2g}", length]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment("bitwise", "Bit for bit", __doc__, "256 tokens of the bundled pair in bfloat16", threads=2)
    add = experiment.parser.add_argument
    add("--model", type=Path, default=None, help="folder of a second model, whose drafts are looked up")
    add("--only-model", action="store_true", help="leave the bundled pair out")
    add("--only-threads", action="store_true", help="leave smaller numbers of threads out")
    add("--contexts", nargs="+", type=at_least(1), default=list(CONTEXTS), help="tokens of prompts, in turn")
    add("--mode", nargs="+", choices=list(MODES), default=list(MODES))
    add("--tokens", type=at_least(1), default=20_000, help="per row")
    options = experiment.start(arguments)
    if options.quick:
        options.tokens, options.mode, options.threads, options.model = 2 * NEW, ["bf16"], 1, None
    known = found(experiment.file.with_suffix(".json"))
    report = ""
    for group in track(list(cases(options)), "bitwise"):
        missing = [row for row in group if row.key not in known or known[row.key].asked < row.asked]
        if missing:
            measure(missing, options.model if missing[0].model == OTHER else None, options.data)
            known |= {row.key: row for row in missing}
            report = experiment.save(blocks(list(known.values())), rows=[asdict(row) for row in known.values()])
    print(report)


if __name__ == "__main__":
    main()
