"""The law of what rounds emit on OpenVINO is that of plain decoding on it: every draft and every verdict is enumerated.

The rows of the target are the backend's own, in float64 as laws are here, or their sums would already be 1e-7 apart. In
passes that are the same bit for bit, the rounds get them as they are. Else the last bits of a row depend on its pass, so that
no two rounds have the same target. Then every text has the row that plain decoding gives, and how far the rows of other passes
are from it is a figure of its own: within NEAR. Tokens, laws, positions, kept nodes and memory are those of the backend.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import Any

import pytest
import torch

pytest.importorskip("openvino")

from company import succeeded
from draftgraph.backends.base import CacheHandle, Feed, Scored
from draftgraph.backends.openvino import load, text, unrolled
from draftgraph.backends.openvino.bitwise import BitwiseModel
from draftgraph.backends.openvino.model import OpenVinoModel
from draftgraph.backends.openvino.pool import BlockPool
from draftgraph.draft import model
from draftgraph.draft.edges.sources import edges_beside_model
from draftgraph.draft.model import ModelDrafter
from draftgraph.draft.terms import Limits
from draftgraph.engine.config import Config
from draftgraph.engine.round import decode_round
from draftgraph.lab.prove.law import Draw, enumerate_draws, total_variation
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.warp import Warper
from draftgraph.structures import Tree
from draftgraph.types import ROOT
from draftgraph.verification.registry import RULES
from enumerated import EnumeratedNoise, by_row, continued, enumerate_drafts, enumerated_rule
from models import perturbed, tiny_lm

EXACT, NEAR, VISIBLE = 1e-12, 1e-6, 1e-3
"""Total variation of equal laws, by rounding in float64; a probability in two passes, by rounding in float32; a mistake."""
PROMPT = 30
"""Tokens of the prompt: drafts lie in two blocks."""


@cache
def models(vocab: int, dtype: torch.dtype) -> tuple[OpenVinoModel, OpenVinoModel]:
    """Target and drafter, converted by our own backend."""
    target = tiny_lm(vocab=vocab, layers=1, logit_gain=1.0)
    both = target, perturbed(target, 0.4)
    return tuple(load.from_loaded(each, dtype, None)[0] for each in both)  # type: ignore[return-value]


class Read:
    """The seam over a model on OpenVINO: its rows in float64, each told by the text that it follows.

    rows   f64[V] of plain decoding. apart  how far a probability of another pass was from them.
    """

    def __init__(self, inner: OpenVinoModel, depth: int, settled: bool) -> None:
        self.model, self.settled, self.apart = inner, settled, 0.0
        self.vocab, self.depth = inner.vocab_size, depth
        self.prompt = [(7 * i * i + 3 * i + 1) % self.vocab for i in range(PROMPT)]
        self.texts: dict[CacheHandle, tuple[list[int], list[list[int]]]] = {}
        self.rows = {
            prefix: inner.plain(torch.tensor([[*self.prompt, *prefix]]), 1)[0, 0].double()
            for length in range(depth + 1)
            for prefix in product(range(self.vocab), repeat=length)
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def target(self, prefix: Sequence[int]) -> torch.Tensor:
        return self.rows[tuple(prefix)].softmax(0)

    def open(self, capacity: int) -> CacheHandle:
        handle = self.model.open(capacity)
        self.texts[handle] = [], []
        return handle

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        prefixes = [list(self._enter(feed)) for feed in feeds]
        scored = self.model.forward(feeds, taps)
        for feed, found, given in zip(feeds, prefixes, scored, strict=True):
            first = len(self.texts[feed.text][1])
            above = [first - 1 if feed.tokens else ROOT, *range(first, first + len(given.likely) - 1)]
            found += self._enter(Feed(feed.text, (), given.likely, above[: len(given.likely)]))
        return [
            Scored(
                torch.stack([self._row(*row) for row in zip(found, given.logits.double(), strict=True)]),
                likely=given.likely,
            )
            for found, given in zip(prefixes, scored, strict=True)
        ]

    def _enter(self, feed: Feed) -> Iterator[tuple[int, ...]]:
        committed, nodes = self.texts[feed.text]
        committed += feed.committed
        if feed.committed:
            yield tuple(committed)
        for token, parent in zip(feed.tokens, feed.parents, strict=True):
            nodes.append([*(nodes[parent] if parent >= 0 else []), token])
            yield (*committed, *nodes[-1])

    def _row(self, prefix: tuple[int, ...], row: torch.Tensor) -> torch.Tensor:
        known = self.rows.get(prefix[PROMPT:])
        if known is None:  # only drafters look so far
            return row
        self.apart = max(self.apart, float((row.softmax(0) - known.softmax(0)).abs().max()))
        return known if self.settled else row

    def keep(self, handle: CacheHandle, nodes: Sequence[int]) -> None:
        self.model.keep(handle, nodes)
        committed, drafted = self.texts[handle]
        committed += drafted[nodes[-1]] if nodes else []
        drafted.clear()

    def close(self, handle: CacheHandle) -> None:
        self.model.close(handle)
        self.texts.pop(handle, None)


def decoded(target: Read, draft: Read, config: Config, limits: Limits, rule: str, count: int, draw: Draw) -> Request:
    """`count` rounds of the real loop, with the real drafter."""
    structure, prompt = config.resolved_structure, target.prompt
    drafter = ModelDrafter(draft, target.vocab, edges_beside_model(config.edges, structure))  # type: ignore[arg-type]
    choice = Strategy(enumerated_rule(RULES[rule]), structure, structure.draws, "enumerated")
    params = SamplingParams(max_new_tokens=target.depth + 1, temperature=1.0)
    request = Request(
        params, choice, list(prompt), PROMPT, params.max_new_tokens, frozenset(), EnumeratedNoise(draw),
        Warper(params, PROMPT, [], torch.device("cpu")), Detokenizer(None, prompt, ()), target.vocab,
    )  # fmt: skip
    request.text = target.open(0)
    drafter.begin(request)
    for _ in range(count):
        if request.finish_reason is None:
            succeeded(decode_round([request], drafter, target, [replace(limits, reach=request.remaining - 1)]))  # type: ignore[list-item]
    drafter.end(request)
    target.close(request.text)
    return request


ROUNDS: dict[str, tuple[Config, int, Limits, int, int]] = {
    "chain": (Config(structure="chain"), 2, Limits(3, 3, 0), 4, 3),
    "tree": (Config(structure="tree"), 2, Limits(4, 2, 0), 4, 2),
    "tree of four tokens": (Config(structure="tree"), 4, Limits(3, 2, 0), 2, 2),
    "shape": (Config(structure=Tree((2, 1))), 2, Limits(4, 2, 0), 4, 2),
    "graph": (Config(structure="graph"), 2, Limits(6, 2, 0, 0.2, spread=False), 4, 3),
    "paths": (Config(structure="paths"), 2, Limits(4, 2, 0), 3, 2),
    "comb": (Config(structure="comb"), 3, Limits(4, 2, 0), 2, 2),
}
"""Configuration, vocabulary, limits, depth of the tables, rounds."""
PASSES: dict[str, tuple[Callable[[OpenVinoModel], OpenVinoModel], torch.dtype, bool]] = {
    "as they come": (lambda model: model, torch.float32, True),
    "bit for bit": (BitwiseModel, torch.float32, False),
    "bit for bit, bfloat16": (BitwiseModel, torch.bfloat16, False),
}
"""Passes of the target, in which precision, and whether every text has one row."""


@dataclass(frozen=True)
class Found:
    """tv  total variation between rounds and plain decoding. apart  how far a probability of another pass was from plain ones.

    paths  different paths that were kept.
    """

    tv: float
    apart: float
    paths: int


def law_of_rounds(name: str, passes: str, rule: str = "layer", settled: bool | None = None) -> Found:
    config, vocab, limits, depth, count = ROUNDS[name]
    make, dtype, settles = PASSES[passes]
    target, drafter = models(vocab, dtype)
    read = Read(make(target), depth, settles if settled is None else settled)
    drafting = Read(drafter, 0, settled=False)
    masses: defaultdict[tuple[int, ...], float] = defaultdict(float)
    kept: set[tuple[int, ...]] = set()
    for probability, request in enumerate_draws(partial(decoded, read, drafting, config, limits, rule, count)):
        masses[tuple(request.output)] += probability
        kept |= {tuple(record.path) for record in request.rounds}
    assert not read.model.pool.used()
    plain = continued(defaultdict(float, {(): 1.0}), read)
    return Found(total_variation(continued(masses, read), plain), read.apart, len(kept))


@pytest.fixture(autouse=True)
def enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    enumerate_drafts(monkeypatch)


CASES = [
    *((name, "layer", "as they come") for name in ROUNDS),
    *((name, "layer", "bit for bit") for name in ROUNDS),
    *((name, "layer", "bit for bit, bfloat16") for name in ("chain", "graph", "paths")),
    ("chain", "block", "as they come"),
    ("shape", "recursive", "bit for bit"),
    ("comb", "traversal", "bit for bit"),
]


@pytest.mark.parametrize(("name", "rule", "passes"), CASES)
def test_the_law_of_rounds_is_that_of_plain_decoding(name: str, rule: str, passes: str) -> None:
    found = law_of_rounds(name, passes, rule)
    assert found.tv <= EXACT
    assert found.apart <= (NEAR if PASSES[passes][2] else 0.0)
    assert found.paths > 3  # drafts are rejected, and kept to several depths


@pytest.mark.parametrize("vocab", [2, 3, 4])
def test_rows_of_plain_decoding_are_those_of_transformers(vocab: int) -> None:
    target = models(vocab, torch.float32)[0]
    plain = tiny_lm(vocab=vocab, layers=1, logit_gain=1.0)
    read = Read(target, 2, settled=False)
    with torch.inference_mode():
        for prefix, row in read.rows.items():
            expected = plain(torch.tensor([[*read.prompt, *prefix]])).logits[0, -1]
            torch.testing.assert_close(row.softmax(0), expected.double().softmax(0), atol=NEAR, rtol=0.0)


CONTROLS: dict[str, tuple[str, str, Any, str, Any]] = {
    "a node reads its siblings": ("shape", "as they come", text, "_visible", lambda *given: None),
    "kept nodes stay where they were": ("shape", "as they come", BlockPool, "move", lambda *given: None),
    "paths begin without the text's last cells": ("shape", "bit for bit", BlockPool, "copy", lambda *given: None),
    "another path's cells are kept": ("shape", "bit for bit", unrolled, "_common", lambda path, nodes: len(nodes)),
}
"""Rounds, passes, and what is replaced."""


@pytest.mark.parametrize("name", CONTROLS)
def test_mistakes_in_passes_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, passes, owner, attribute, mistake = CONTROLS[name]
    monkeypatch.setattr(owner, attribute, mistake)
    found = law_of_rounds(rounds, passes, settled=False)
    assert found.tv > VISIBLE
    assert found.apart > VISIBLE > NEAR


def test_a_wrong_law_of_a_draft_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that are told to come from another law: the target rows are right, and the text is not."""
    monkeypatch.setattr(model, "_drawer", lambda request: by_row(lambda law: request.noise.draw(law.roll(1))))
    found = law_of_rounds("chain", "bit for bit")
    assert found.tv > VISIBLE
    assert found.apart == 0.0
