"""Whoever shares a round: every text is the one that its request has alone, and nothing is held that nobody reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import draftgraph as dg
from automata import Automaton
from company import arrived, together
from draftgraph.engine.course import Course
from draftgraph.structures import Chain, Comb, Paths, Tree
from models import perturbed, plain, tiny_lm

Choose = Callable[[int], int]
TWICE = Tree((2, 1), children="with_replacement")
WAYS: list[dict[str, Any]] = [
    {},
    {"rule": "layer", "structure": Tree((3, 1, 1))},
    {"rule": "block", "structure": Chain()},
    {"rule": "token", "structure": Chain()},
    {"rule": "walk", "structure": "graph"},
    {"rule": "agree"},
    {"rule": "traversal", "structure": "tree"},
    {"rule": "recursive", "structure": Tree((2, 2))},
    {"rule": "kseq", "structure": TWICE},
    {"rule": "multipath", "structure": Paths(2)},
    {"rule": "top_beta", "structure": "tree"},
    {"rule": "typical", "structure": "tree"},
    {"rule": "confidence", "structure": "tree"},
    {"structure": Comb()},
    {"structure": "gsd"},
    {"budget": 0},
    {"budget": 3},
    {"budget": 12, "num_speculative_tokens": 2},
]
"""How requests draft and verify. Every rule is among them that the engine runs."""
BY_TURNS = Automaton(
    {
        "start": {token: "odd" for token in range(0, 64, 2)},
        "odd": {token: "start" for token in range(1, 64, 2)},
    },
    vocab=64,
)
"""Even tokens and odd ones by turns."""
DRAWN = ("kseq", "multipath")
"""Rules that verify nothing at temperature 0."""


@cache
def engine_of(backend: str) -> dg.Engine:
    target = tiny_lm(window=512)
    return dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.1), backend=backend, tokenizer=None)


def asked(choose: Choose) -> tuple[list[int], dict[str, Any]]:
    """A prompt and the options of a request."""
    options = dict(WAYS[choose(len(WAYS))])
    warm = options.get("rule") in DRAWN
    options["temperature"] = (0.6, 1.0, 0.0, 0.0)[choose(2 if warm else 4)]
    options |= {"seed": choose(1000), "max_new_tokens": 1 + choose(14)}
    if choose(3) == 0:
        options["repetition_penalty"] = 1.3
    if choose(4) == 0:
        options["top_k"] = 5
    if choose(4) == 0:
        options["stop_token_ids"] = [choose(64)]
    if choose(5) == 0:
        options |= {"logit_bias": {choose(64): 2.0, choose(64): -3.0}, "min_new_tokens": 1}
    if choose(6) == 0:
        options["grammar"] = BY_TURNS
    length = (1, 3, 9, 40)[choose(4)] + choose(4)
    return [choose(64) for _ in range(length)], options


def held(model: Any) -> int:
    return len(model.pool.used()) if hasattr(model, "pool") else len(model.cache._used)


def named(model: Any, handles: list[Any]) -> int:
    """What the requests' own handles say: committed tokens and nodes; on blocks, the blocks that hold them."""
    if hasattr(model, "pool"):
        return sum(len(handle.blocks) for handle in handles)
    return sum(len(handle) - handle.forgotten + len(handle.nodes) for handle in handles)


def check_cells(courses: list[Course]) -> None:
    running = [course.request for course in courses if course.request.begun]
    engine = courses[0]
    assert held(engine.target) == named(engine.target, [request.text for request in running])
    for request in running:
        assert not request.text.nodes
    drafter: Any = engine.drafter
    assert held(drafter.model) == named(drafter.model, [request.drafting.text for request in running])


def check(backend: str, seed: int, count: int) -> None:
    engine, choose = engine_of(backend), random.Random(seed).randrange
    requests = [asked(choose) for _ in range(count)]
    alone = [engine.generate(prompt, **options).token_ids for prompt, options in requests]
    arriving = [partial(arrived, engine, prompt, **options) for prompt, options in requests]
    assert together(arriving, choose, check_cells) == alone
    assert held(engine.target) == held(engine.drafter.model) == 0


@settings(max_examples=6)
@given(st.integers(0, 1 << 30), st.integers(2, 7))
def test_every_text_is_the_one_alone(seed: int, count: int) -> None:
    check("torch", seed, count)


@pytest.mark.parametrize("count", [16, 32])
def test_large_batches(count: int) -> None:
    check("torch", count, count)


@pytest.mark.parametrize(("seed", "count"), [(1, 4), (2, 13), (3, 32)])
def test_on_openvino(seed: int, count: int) -> None:
    pytest.importorskip("openvino")
    check("openvino", seed, count)


def test_every_rule_is_tried() -> None:
    runnable = {name for name, rule in dg.rules().items() if not rule.continues} - {"judge"}  # which needs a head
    assert {way.get("rule") for way in WAYS} >= runnable


@pytest.mark.parametrize("count", [2, 5])
def test_greedy_texts_are_those_of_transformers(count: int) -> None:
    engine = engine_of("torch")
    prompts = [[(5 * i + n) % 64 for i in range(3 + n)] for n in range(count)]
    arriving = [partial(arrived, engine, prompt, max_new_tokens=20) for prompt in prompts]
    texts = together(arriving, random.Random(count).randrange, check_cells)
    assert texts == [plain(engine.target.model, prompt, 20) for prompt in prompts]  # type: ignore[attr-defined]
