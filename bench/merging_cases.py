"""What the study of merging compares, and on which texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

import draftgraph as dg
from bench.along import TAIL
from bench.pairs import MissingPairError, code_folders, load_model, spread, story_folders
from draftgraph.data import bundled_pair

NODES, DEPTHS = (8, 16, 32, 64), (1, 2, 3, 4, 8)
CONDITIONS = (("own", 0.0), ("own", 1.0), ("natural", 1.0), ("natural", 0.0))
"""(kind of text, temperature). Natural: somebody wrote it. Own: the target did, greedily at 0 and by sampling at 1.

The last one is left out where not everything is measured.
"""
STORY_START, NEWS_START, LONGEST_PROMPT = 40, 448, 260
"""Tokens of a story, and of an article at most, that are given; of a HumanEval prompt at most (longer ones are left out)."""
SHAPES = {"4-ary": ((4, 4, 4), (4, 4, 4, 4)), "2-ary": ((2,) * 5,)}
"""Trees that are not pruned, as in the paper."""
NEVER = -1
"""τ of the published order that merges nothing."""


@dataclass(frozen=True)
class Setup:
    """A way to draft: `draft` names it in the tables, `depth` passes at most, `nodes` verified at most.

    sampled  whether slots are SAMPLED above temperature 0.
    fill     spend the whole budget, also on slots that the engine would not find worth a row: trees of equal size.
    rounds   of every text at most, where fewer than usual will do.
    """

    draft: str
    depth: int
    nodes: int
    options: dict[str, Any]
    sampled: bool = False
    fill: bool = False
    rounds: int | None = None


@dataclass(frozen=True)
class Subject:
    """A pair and what it reads. `full`: everything is measured on it; otherwise only the middle of the grid."""

    name: str
    about: str
    folders: Callable[[Path], tuple[Path, Path]]
    reads: Callable[[Any, Path], list[tuple[list[int], list[int]]]]
    full: bool = True


def paper_setups(temperature: float, full: bool) -> Iterator[Setup]:
    """The published order with and without merging, beside what it is to be compared with."""
    nodes, depths = (NODES[1:], DEPTHS) if full else ((32,), (1, 2, 4, 8))
    for match in (NEVER, 0, 1):
        for n in nodes:
            for depth in depths if n == nodes[-1] else depths[-1:]:
                yield Setup(gsd(match), depth, n, {"structure": "gsd", "gsd_match": match})
    for n in (4, *NODES) if full else (8, 32):
        for depth in (1, 2, 4, 8):  # from one pass on, or the curve would begin too dear
            yield Setup("best-first tree", depth, n, {"structure": "tree"}, fill=True)
    for n in nodes if temperature > 0 else ():
        yield Setup("level policy", 8, n, {"structure": "tree"}, sampled=True, fill=True)
    for depth in (2, 4, 8) if full else (4,):
        yield Setup("chain", depth, depth, {"structure": "chain"}, sampled=True)
    for name, shapes in SHAPES.items():
        for shape in shapes if full else ():
            size = sum(int(name[0]) ** level for level in range(1, len(shape) + 1))
            options = {"structure": "tree", "branching": shape, "children": "fixed"}
            yield Setup(name, len(shape), size, options, rounds=3)


def gsd(match: int) -> str:
    return "gsd, never merging" if match == NEVER else f"gsd, τ={match}"


_FILLING: dict[str, Any] = {"structure": "graph", "read_ahead": 0}
_ALONE = ("merge", "rejected", "own", "context", "table")
SOURCES: dict[str, dict[str, Any]] = {
    "none": {"structure": "tree"},
    **{name: _FILLING | {"edges": (name,)} for name in _ALONE},
    "all": _FILLING,
    "all + table": _FILLING | {"edges": ("merge", "own", "context", "rejected", "table")},
}
"""Edge sources that fill spare slots, as options of `Config`; nothing is read ahead, so that drafts differ by copies only."""
GRID = ("none", "all")
"""Sources that are measured at every depth and node count; the others at 32 nodes and few passes."""
FILLED = ", filled"
"""Ending of the name of a setup that spends its whole budget."""


def edge_setups(temperature: float, full: bool) -> Iterator[Setup]:
    """The same passes and nodes with and without every edge source; at temperature 1 with SAMPLED slots, as the engine does.

    All slots filled, so that sources are compared with further nodes of the tree and with each other at equal size; and at 32
    nodes also as the engine does it, which leaves slots empty that are hardly worth a row.
    """
    for name, options in SOURCES.items():
        for n in NODES if full else (32,):
            for depth in DEPTHS if full else (2,):
                if name in GRID or (n == 32 and depth in (2, 3)):
                    yield Setup(f"{name}{FILLED}", depth, n, options, sampled=True, fill=True)
                if name in GRID and n == 32:
                    yield Setup(name, depth, n, options, sampled=True)


def ahead_setups(temperature: float, full: bool) -> Iterator[Setup]:
    """The engine as it is, with default edges, reading nothing or eight copies ahead in every drafter pass."""
    for count in (0, 8):
        for depth in (2, 3, 4, 8) if full else (3,):
            options = {"structure": "graph", "read_ahead": count}
            yield Setup(f"ahead {count}", depth, 32, options, sampled=True)


PARTS: dict[str, Callable[[float, bool], Iterator[Setup]]] = {
    "paper": paper_setups,
    "edges": edge_setups,
    "ahead": ahead_setups,
}
"""What is measured, by (temperature, whether everything is measured on a pair)."""


@dataclass
class Loaded:
    """A pair with its texts: token ids, and where the drafting starts."""

    target: PreTrainedModel
    drafter: PreTrainedModel
    natural: list[tuple[list[int], int]]
    written: dict[float, list[tuple[list[int], int]]] = field(default_factory=dict)

    def texts(self, kind: str, temperature: float) -> list[tuple[list[int], int]]:
        """Texts of one condition, equally long; own ones are written when they are first needed, each with its own seed."""
        if kind == "natural":
            return self.natural
        if temperature not in self.written:
            plain = dg.Engine.from_pretrained(self.target, draft_model=self.drafter, budget=0)
            self.written[temperature] = [
                ([*ids[:start], *_write(plain, ids[:start], len(ids) - start, temperature, seed)], start)
                for seed, (ids, start) in enumerate(self.natural)
            ]
        return self.written[temperature]


def _write(plain: dg.Engine, prompt: Sequence[int], tokens: int, temperature: float, seed: int) -> list[int]:
    params = dg.SamplingParams(max_new_tokens=tokens, temperature=temperature, ignore_eos=True, seed=seed)
    return plain.generate(list(prompt), params).token_ids


def load(subject: Subject, data: Path, prompts: int, tokens: int) -> Loaded:
    """`prompts` texts with `tokens` tokens behind which rounds start. Raises MissingPairError if something is not here."""
    target, drafter = subject.folders(data)
    tokenizer = AutoTokenizer.from_pretrained(target)
    long = [
        ([*given, *rest[: tokens + TAIL]], len(given))
        for given, rest in subject.reads(tokenizer, data)
        if len(rest) >= tokens + TAIL
    ]
    return Loaded(load_model(target), load_model(drafter), spread(long, prompts))


def _stories(tokenizer: Any, data: Path) -> list[tuple[list[int], list[int]]]:
    texts = [tokenizer(row["text"])["input_ids"] for row in _rows(data, "stories_dev90.jsonl")]
    return [(ids[:STORY_START], ids[STORY_START:]) for ids in texts]


def _functions(tokenizer: Any, data: Path) -> list[tuple[list[int], list[int]]]:
    """HumanEval: the prompt, then its solution."""
    texts = []
    for row in _rows(data, "humaneval_dev64.jsonl"):
        prompt = tokenizer(row["prompt"])["input_ids"]
        whole = tokenizer(row["prompt"] + row["canonical_solution"])["input_ids"]
        if len(prompt) <= LONGEST_PROMPT:
            texts.append((whole[: len(prompt)], whole[len(prompt) :]))
    return texts


def _articles(tokenizer: Any, data: Path) -> list[tuple[list[int], list[int]]]:
    """Articles to be summarised, cut to what the window holds; the natural continuation is the published summary."""
    texts = []
    for row in _rows(data, "spec_bench_dev100.jsonl"):
        if row["category"] == "summarization":
            given = tokenizer(row["turns"][0], truncation=True, max_length=NEWS_START)["input_ids"]
            summary = "\nSummary: " + row["reference"][0]
            texts.append((given, tokenizer(summary, add_special_tokens=False)["input_ids"]))
    return texts


def _rows(data: Path, name: str) -> list[dict[str, Any]]:
    path = data / "prompts" / name
    if not path.is_file():
        raise MissingPairError(f"{name} is not in the data folder")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _weak_folders(data: Path) -> tuple[Path, Path]:
    target, drafter = story_folders(data)
    return target, drafter.with_name("stories260K-draft-29k")


SUBJECTS = (
    Subject("story", "stories260K with its 124k drafter, held-out stories", story_folders, _stories),
    Subject("code", "a 10.2 M model of Python source with its 1.3 M drafter, HumanEval", code_folders, _functions),
    Subject("weak", "stories260K with its 29k drafter, the same stories", _weak_folders, _stories, full=False),
    Subject(
        "news", "the pair of `code`, behind articles that are to be summarised (Spec-Bench, cut to "
        f"{NEWS_START} tokens). It was trained on Python only: it cannot summarise, but the text repeats its article",
        code_folders, _articles, full=False,
    ),
    Subject(
        "bundled news", "the bundled pair behind the same articles, with the same reservation",
        lambda data: bundled_pair(), _articles, full=False,
    ),
)  # fmt: skip
