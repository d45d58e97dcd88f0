"""What a searched n-gram table adds to lookup: tokens per target call at equal nodes, on stories, code, and summaries and edits.

    python -m experiments.search --model /path/to/SmolLM2-135M-Instruct

Everybody writes the same texts: greedily, and at temperature 1 under rule="agree", where a seed gives the same text with any
drafts. So what differs is the drafts alone. Rows are requests of one engine, one after the other; the last rows ask everything
a second time. Writes search.json and search.md into --out.
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import json
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import draftgraph as dg
from draftgraph.draft.base import Drafter
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.ngrams.counts import Counter
from draftgraph.draft.ngrams.table import NgramTable
from draftgraph.draft.puct import Found, Search
from draftgraph.draft.puct import Path as Prefix
from draftgraph.draft.puct import Row as Successors
from draftgraph.draft.search import SearchDrafter
from experiments.experiment import Experiment, at_least, table
from experiments.quantised import messages

COPIES = ("own", "context")
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


def drafters(corpus: Sequence[Sequence[int]], vocab: int) -> dict[str, Callable[[], Drafter]]:
    counter = Counter(vocab)
    for text in corpus:
        counter.add(text)
    counts = counter.counts()
    return {
        "lookup": lambda: LookupDrafter(COPIES),
        "lookup, token table": lambda: LookupDrafter((*COPIES, "table")),
        "search": lambda: SearchDrafter(COPIES),
        "search, no copies": lambda: SearchDrafter(()),
        "search, no value term": lambda: SearchDrafter(COPIES, value_weight=0.0),
        f"search, {PUBLISHED} simulations": lambda: SearchDrafter(COPIES, simulations=PUBLISHED),
        "best first, the same table": lambda: BestFirstDrafter(COPIES),
        "search, shared": lambda: SearchDrafter(COPIES, shared=True),
        "search, corpus": lambda: SearchDrafter(COPIES, table=NgramTable(counts)),
        "best first, corpus": lambda: BestFirstDrafter(COPIES, table=NgramTable(counts)),
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
            ratio = jackknife(results, lookup)
            yield Row(task.kind, temperature, budget, told, rate(results), ratio, microseconds, same, len(results))


def rate(results: Sequence[dg.Result]) -> float:
    return sum(len(each.token_ids) for each in results) / sum(each.stats.num_rounds for each in results)


def jackknife(results: Sequence[dg.Result], lookup: Sequence[dg.Result]) -> tuple[float, float]:
    """Tokens per call over lookup's, and the standard error."""
    without = [
        rate([*results[:i], *results[i + 1 :]]) / rate([*lookup[:i], *lookup[i + 1 :]])
        for i in range(len(results))
        if len(results) > 1
    ]
    error = (len(without) - 1) / len(without) ** 0.5 * statistics.pstdev(without) if without else 0.0
    return rate(results) / rate(lookup), error


def tasks(options: argparse.Namespace) -> Iterator[Task]:
    data, count = options.data, options.prompts
    stories = dg.Engine.from_pretrained(data / "models" / "stories260K", backend="torch")
    told = [
        stories.tokenizer(json.loads(line)["text"])["input_ids"]
        for line in lines(data / "prompts" / "stories_dev90.jsonl")
    ]
    yield Task("stories", stories, [ids[:BEFORE] for ids in told[:count]], told[count:])
    code = dg.Engine.from_pretrained(data / "models" / "code10m", backend="torch")
    functions = [json.loads(line)["prompt"] for line in lines(data / "prompts" / "humaneval_dev64.jsonl")]
    library = [
        file.read_text(encoding="utf-8")
        for name in LIBRARY
        for file in sorted((Path(sysconfig.get_path("stdlib")) / name).rglob("*.py"))
    ]
    read = lambda text: code.tokenizer(text)["input_ids"]  # noqa: E731
    yield Task("code", code, [read(text) for text in functions[:count]], [read(text) for text in library])
    if options.model is not None:
        chat = dg.Engine.from_pretrained(options.model, backend=options.backend)
        wanted = [chat.chat_prompt(text) for _, text in messages(data / "prompts", max(1, options.chats // 3))]
        with gzip.open(data / "smollm2_answers.jsonl.gz", "rt") as file:
            answers = [json.loads(line)["a"] for line in file]
        yield Task("summaries, questions, edits", chat, wanted, answers)


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def report(rows: Sequence[Row]) -> list:
    cells = [
        [
            row.name, row.kind, f"{row.temperature:g}", str(row.budget), f"{row.tokens:.3f}",
            f"{row.over_lookup[0]:.3f} ± {row.over_lookup[1]:.3f}", f"{row.microseconds:.0f}",
            f"{row.same} of {row.texts}",
        ]
        for row in rows
    ]  # fmt: skip
    return [
        "Tokens per target call at equal nodes; over lookup, with the standard error over prompts; microseconds that the drafter "
        "takes per round (of its thread, learning included); texts that are those of lookup. Every row has copies of the text "
        "(own, context) but where it says otherwise.",
        table(["who", "text", "T", "nodes", "tokens per call", "over lookup", "µs", "same"], cells),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment("search", "Searched n-grams beside lookup", __doc__, "two prompts, 12 tokens")
    add = experiment.parser.add_argument
    add("--model", type=Path, default=None, help="folder of SmolLM2-135M-Instruct; without it, stories and code alone")
    add("--backend", default="openvino", help="of that model")
    add("--prompts", type=at_least(1), default=24, help="stories and functions")
    add("--chats", type=at_least(1), default=12, help="summaries, questions and edits")
    add("--tokens", type=at_least(2), default=96)
    options = experiment.start(arguments)
    if options.quick:
        options.prompts, options.chats, options.tokens = 2, 1, 12
    rows: list[Row] = []
    for task in tasks(options):
        for temperature in TEMPERATURES:
            for budget in BUDGETS:
                rows += measure(task, temperature, budget, options.tokens)
                text = experiment.save(report(rows), rows=[asdict(row) for row in rows])
    print(text)


if __name__ == "__main__":
    main()
