"""What a searched n-gram table adds to lookup: tokens per target call at equal nodes, on stories, code, summaries and rewrites.

    python -m experiments.search
    python -m experiments.search --kinds answers --model /path/to/SmolLM2-135M-Instruct    # adds to what is in --out

Everybody writes the same texts: greedily, and at temperature 1 under rule="agree", where a seed gives the same text with any
drafts. So what differs is the drafts alone. Requests come one after the other; a second pass asks everything again, with the
same seeds. "answers" are summaries and rewrites that SmolLM2 has written, replayed without it (experiments/replay.py). Writes
search.json and search.md into --out; kinds of text that are not asked for keep their rows there.
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import json
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import draftgraph as dg
from draftgraph.backends.load import read_tokenizer
from draftgraph.draft.base import Drafter
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.ngrams.counts import Counter
from draftgraph.draft.ngrams.table import NgramTable
from draftgraph.draft.puct import Found, Search
from draftgraph.draft.puct import Path as Prefix
from draftgraph.draft.puct import Row as Successors
from draftgraph.draft.search import SearchDrafter
from experiments.experiment import Experiment, at_least, table
from experiments.replay import Recorded, rounds_of

COPIES = ("own", "context")
STORIES, CODE, ANSWERS = KINDS = ("stories", "code", "answers")
PASSAGES = ("Summarize the following", "Rewrite the following")
"""Words of the prompts whose answers are replayed."""
PUBLISHED = 150
"""Simulations per round in the paper's code."""
BUDGETS, TEMPERATURES = (8, 16), (0.0, 1.0)
BEFORE = 24
"""Tokens of a story that it is continued from."""
LIBRARY = ("json", "email", "logging", "unittest", "http", "importlib")
"""Packages of Python's library that the table for code is counted on."""


class BestFirst(Search):
    """The likeliest prefixes by the same rows, without simulations: what the search is to find."""

    def found(self, budget: int, simulations: int = 0) -> list[Found]:
        found: list[Found] = []
        heap: list[tuple[float, int, Prefix, int, Successors, float]] = []
        self._push(heap, (), 0, self._row(()), 1.0)
        while heap and len(found) < budget:
            negative, _, path, rank, row, above = heapq.heappop(heap)
            own = (*path, row.tokens[rank])
            found.append(Found(own, -negative, row.length))
            self._push(heap, path, rank + 1, row, above)
            if len(own) < self.depth:
                self._push(heap, own, 0, self._row(own), -negative)
        return found

    def _push(self, heap: list, path: Prefix, rank: int, row: Successors, above: float) -> None:
        if rank < len(row.tokens):
            heapq.heappush(heap, (-above * row.weights[rank], len(path), path, rank, row, above))


class BestFirstDrafter(SearchDrafter):
    kind = BestFirst


@dataclass(frozen=True)
class Task:
    """A kind of text: who writes it, behind which prompts, and texts that a table may be counted on."""

    kind: str
    engine: dg.Engine
    prompts: Sequence[Sequence[int]]
    corpus: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Row:
    """tokens  per target call. over_lookup  the same over lookup's, and its standard error (jackknife over prompts).
    microseconds  of the drafter's thread per round, learning included. same  texts that are lookup's.
    """

    kind: str
    temperature: float
    budget: int
    name: str
    tokens: float
    over_lookup: tuple[float, float]
    microseconds: float
    same: int
    texts: int


class Tokens(NamedTuple):
    """Of a text, and the target calls that it took."""

    tokens: int
    rounds: int


def drafters(
    corpus: Sequence[Sequence[int]], vocab: int, copies: Sequence[str] = COPIES
) -> dict[str, Callable[[], Drafter]]:
    """Everybody who is compared. copies  the sources that all have."""
    counter = Counter(vocab)
    for text in corpus:
        counter.add(text)
    counts = counter.counts()
    return {
        "lookup": lambda: LookupDrafter(copies),
        "lookup, token table": lambda: LookupDrafter((*copies, "table")),
        "search": lambda: SearchDrafter(copies),
        "search, no copies": lambda: SearchDrafter(()),
        "search, no value term": lambda: SearchDrafter(copies, value_weight=0.0),
        f"search, {PUBLISHED} simulations": lambda: SearchDrafter(copies, simulations=PUBLISHED),
        "best first, the same table": lambda: BestFirstDrafter(copies),
        "search, shared": lambda: SearchDrafter(copies, shared=True),
        "search, corpus": lambda: SearchDrafter(copies, table=NgramTable(counts)),
        "best first, corpus": lambda: BestFirstDrafter(copies, table=NgramTable(counts)),
    }


TWICE = ("lookup, token table", "search, shared")
"""Who is asked everything a second time."""


@dataclass
class Clock:
    """Seconds of this thread in a drafter."""

    seconds: float = 0.0

    def timing(self, drafter: Drafter) -> Drafter:
        for name in ("begin", "propose", "verified"):
            setattr(drafter, name, self._timed(getattr(drafter, name)))
        return drafter

    def _timed(self, act: Callable[..., object]) -> Callable[..., object]:
        def timed(*given: object) -> object:
            begun = time.thread_time()
            try:
                return act(*given)
            finally:
                self.seconds += time.thread_time() - begun

        return timed


def replays(options: argparse.Namespace) -> Iterator[Row]:
    """Recorded summaries and rewrites; the table is counted on answers to other kinds of prompts."""
    tokenizer = read_tokenizer(options.model)
    with gzip.open(options.data / "smollm2_answers.jsonl.gz", "rt") as file:
        answers = [json.loads(line) for line in file]
    passages = [any(wish in tokenizer.decode(each["p"]) for wish in PASSAGES) for each in answers]
    others = [each["a"] for each, passage in zip(answers, passages, strict=True) if not passage]
    for temperature in TEMPERATURES:
        wanted = [
            Recorded(each["p"], each["a"])
            for each, passage in zip(answers, passages, strict=True)
            if passage and each["t"] == temperature
        ][: options.chats]
        for budget in BUDGETS:
            yield from _replayed(
                wanted, drafters(others, len(tokenizer), ("context",)), temperature, budget, len(tokenizer)
            )


def _replayed(
    texts: Sequence[Recorded], made: Mapping[str, Callable[[], Drafter]], temperature: float, budget: int, vocab: int
) -> Iterator[Row]:
    lookup: list[Tokens] = []
    for name, make in made.items():
        if "table" in make().edges:
            continue  # it copies the target's rows
        clock = Clock()
        drafter = clock.timing(make())
        for number in range(2 if name in TWICE else 1):
            clock.seconds = 0.0
            found = [Tokens(len(text.answer), rounds_of(drafter, text, budget, vocab)) for text in texts]
            lookup = lookup or found
            told = f"{name}, second pass" if number else name
            microseconds = 1e6 * clock.seconds / sum(each.rounds for each in found)
            yield Row(
                ANSWERS,
                temperature,
                budget,
                told,
                rate(found),
                jackknife(found, lookup),
                microseconds,
                len(texts),
                len(texts),
            )


def run(task: Task, drafter: Drafter, temperature: float, budget: int, tokens: int, passes: int) -> Iterator[list]:
    """For every pass the results, one per prompt, and microseconds per round."""
    clock, base = Clock(), task.engine
    config = dg.Config(budget=budget, rule="agree")
    engine = dg.Engine(base.target, clock.timing(drafter), config, base.tokenizer, base.eos)
    for _ in range(passes):
        clock.seconds, results = 0.0, []
        for seed, prompt in enumerate(task.prompts):
            params = dg.SamplingParams(max_new_tokens=tokens, temperature=temperature, seed=seed)
            results.append(engine.generate(prompt, params))
        yield [results, 1e6 * clock.seconds / sum(result.stats.num_rounds for result in results)]


def measure(task: Task, temperature: float, budget: int, tokens: int) -> Iterator[Row]:
    lookup: list[dg.Result] = []
    made = drafters(task.corpus, task.engine.target.vocab_size)
    for name, make in made.items():
        passes = run(task, make(), temperature, budget, tokens, 2 if name in TWICE else 1)
        for number, (results, microseconds) in enumerate(passes):
            lookup = lookup or results
            same = sum(one.token_ids == other.token_ids for one, other in zip(results, lookup, strict=True))
            told = f"{name}, second pass" if number else name
            ratio = jackknife(counted(results), counted(lookup))
            yield Row(
                task.kind, temperature, budget, told, rate(counted(results)), ratio, microseconds, same, len(results)
            )


def counted(results: Sequence[dg.Result]) -> list[Tokens]:
    return [Tokens(len(each.token_ids), each.stats.num_rounds) for each in results]


def rate(texts: Sequence[Tokens]) -> float:
    return sum(each.tokens for each in texts) / sum(each.rounds for each in texts)


def jackknife(results: Sequence[Tokens], lookup: Sequence[Tokens]) -> tuple[float, float]:
    """Tokens per call over lookup's, and the standard error."""
    without = [
        rate([*results[:i], *results[i + 1 :]]) / rate([*lookup[:i], *lookup[i + 1 :]])
        for i in range(len(results))
        if len(results) > 1
    ]
    error = (len(without) - 1) / len(without) ** 0.5 * statistics.pstdev(without) if without else 0.0
    return rate(results) / rate(lookup), error


def stories(options: argparse.Namespace) -> Task:
    """Stories that are continued; the table is counted on others."""
    engine = dg.Engine.from_pretrained(options.data / "models" / "stories260K", backend="torch")
    told = [json.loads(line)["text"] for line in lines(options.data / "prompts" / "stories_dev90.jsonl")]
    ids = [engine.tokenizer(text)["input_ids"] for text in told]
    return Task(STORIES, engine, [each[:BEFORE] for each in ids[: options.prompts]], ids[options.prompts :])


def code(options: argparse.Namespace) -> Task:
    """Functions that are written by their signatures; the table is counted on a part of Python's library."""
    engine = dg.Engine.from_pretrained(options.data / "models" / "code10m", backend="torch")
    asked = [json.loads(line)["prompt"] for line in lines(options.data / "prompts" / "humaneval_dev64.jsonl")]
    library = (
        file.read_text(encoding="utf-8")
        for name in LIBRARY
        for file in sorted((Path(sysconfig.get_path("stdlib")) / name).rglob("*.py"))
    )
    prompts, corpus = ([engine.tokenizer(text)["input_ids"] for text in texts] for texts in (asked, library))
    return Task(CODE, engine, prompts[: options.prompts], corpus)


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def report(rows: Sequence[Row], commands: Mapping[str, str]) -> list:
    cells = [
        [
            row.name, row.kind, f"{row.temperature:g}", str(row.budget), f"{row.tokens:.3f}",
            f"{row.over_lookup[0]:.3f} ± {row.over_lookup[1]:.3f}", f"{row.microseconds:.0f}",
            f"{row.same} of {row.texts}",
        ]
        for row in rows
    ]  # fmt: skip
    return [
        "Measured kind by kind: " + "; ".join(f"{kind}: `{command}`" for kind, command in commands.items()) + ".",
        "Tokens per target call at equal nodes; over lookup, with the standard error over prompts; microseconds that the drafter "
        "takes per round (of its thread, learning included); texts that are those of lookup. All have copies of the text but "
        "where a row says otherwise: from own and context, in the replayed answers from context alone, since the target's rows "
        "were not recorded. Tables of a corpus were counted on other stories, on a part of Python's library, on answers to other "
        "prompts.",
        table(["who", "text", "T", "nodes", "tokens per call", "over lookup", "µs", "same"], cells),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment("search", "Searched n-grams beside lookup", __doc__, "two prompts, 12 tokens")
    add = experiment.parser.add_argument
    add("--kinds", nargs="+", choices=KINDS, default=[STORIES, CODE], help="of texts; others keep their rows in --out")
    add("--model", type=Path, default=None, help="folder of SmolLM2-135M-Instruct, whose tokenizer reads its answers")
    add("--prompts", type=at_least(1), default=24, help="stories and functions")
    add("--chats", type=at_least(1), default=60, help="answers at each temperature")
    add("--tokens", type=at_least(2), default=96, help="of a story or function")
    options = experiment.start(arguments)
    if ANSWERS in options.kinds and options.model is None:
        raise SystemExit("answers are read with the tokenizer of their model; write --model FOLDER, or leave them out")
    if options.quick:
        options.prompts, options.chats, options.tokens = 2, 2, 12
    rows, commands = held(experiment.file.with_suffix(".json"), options.kinds)
    text = ""
    for row in measured(options):
        rows.append(row)
        commands[row.kind] = experiment.command
        text = experiment.save(report(rows, commands), commands=commands, rows=[asdict(each) for each in rows])
    print(text)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    for make, kind in ((stories, STORIES), (code, CODE)):
        if kind in options.kinds:
            task = make(options)
            for temperature in TEMPERATURES:
                for budget in BUDGETS:
                    yield from measure(task, temperature, budget, options.tokens)
    if ANSWERS in options.kinds:
        yield from replays(options)


def held(file: Path, anew: Sequence[str]) -> tuple[list[Row], dict[str, str]]:
    """Rows of earlier runs about other kinds of texts than are measured `anew`, and the commands that measured them."""
    if not file.is_file():
        return [], {}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    rows = [Row(**row | {"over_lookup": tuple(row["over_lookup"])}) for row in found["rows"] if row["kind"] not in anew]
    return rows, {kind: command for kind, command in found["commands"].items() if kind not in anew}


if __name__ == "__main__":
    main()
