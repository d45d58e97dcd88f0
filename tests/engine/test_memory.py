"""Caches are as large as what is in them: not as what a request might ask for, and no longer than it is there."""

from __future__ import annotations

import pytest

import draftgraph as dg
from draftgraph.backends.cells import KEPT_CELLS, CellPool
from draftgraph.budget.costs import MOST_DRAFTED
from models import perturbed, plain, tiny_lm

PROMPT = [5, 9, 5]


def pools(engine: dg.Engine) -> list[CellPool]:
    return [engine.target.cache, engine.drafter.model.cache]  # type: ignore[attr-defined]


def held(pool: CellPool) -> int:
    """Cells that have memory in some layer."""
    return max(0 if tensor is None else tensor.shape[2] for layer in pool.memory.tensors for tensor in layer)


@pytest.fixture(scope="module")
def engine() -> dg.Engine:
    target = tiny_lm(window=2**20)
    return dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.05), budget=8)


@pytest.mark.parametrize("most", [8_000, 10**6])
def test_a_length_that_might_be_reached_costs_nothing(most: int, engine: dg.Engine) -> None:
    stream = engine.stream(PROMPT, dg.SamplingParams(max_new_tokens=most))
    for _ in range(5):
        next(stream)
    for pool in pools(engine):
        assert held(pool) <= pool.capacity <= 2 * (len(PROMPT) + MOST_DRAFTED)
    stream.close()
    assert not any(pool._used for pool in pools(engine))


def test_memory_grows_with_the_text_and_goes_with_it(engine: dg.Engine) -> None:
    long = [token % 60 for token in range(3 * KEPT_CELLS)]
    stream = engine.stream(long, dg.SamplingParams(max_new_tokens=50))
    next(stream)
    for pool in pools(engine):
        assert len(long) <= held(pool) <= 2 * len(long)
    beside = engine.stream(PROMPT, dg.SamplingParams(max_new_tokens=30))
    next(beside)
    stream.close()
    tokens = [token for event in beside for token in event.token_ids]
    assert tokens == plain(engine.target.model, PROMPT, 30)[-len(tokens) :]
    assert [held(pool) for pool in pools(engine)] == [0, 0]
    assert engine.generate(PROMPT, dg.SamplingParams(max_new_tokens=30)).token_ids == plain(
        engine.target.model, PROMPT, 30
    )
    assert max(held(pool) for pool in pools(engine)) <= KEPT_CELLS


def test_many_requests_need_no_more_than_one(engine: dg.Engine) -> None:
    params = dg.SamplingParams(max_new_tokens=30)
    engine.generate(PROMPT, params)
    before = [pool.capacity for pool in pools(engine)]
    for _ in range(30):
        engine.generate(PROMPT, params)
        next(engine.stream(PROMPT, params))
    assert [pool.capacity for pool in pools(engine)] == before
    assert not any(pool._used or len(pool.handles) > 2 for pool in pools(engine))
