"""Threads share engines, models and streams: every text is right, nobody starves, and nothing stays taken."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import draftgraph as dg
from cost_tables import costs
from draftgraph.backends.load import load_model
from draftgraph.draft.edges.table import TokenTable
from draftgraph.draft.graph import Row
from draftgraph.errors import DraftgraphError
from draftgraph.request.result import Stream
from models import perturbed, plain, tiny_lm
from pairs import save_pair
from thread_stress import PROMPTS, stress

PARAMS = dg.SamplingParams(max_new_tokens=40)
PROMPT = [5, 9, 5]


def together(*actions: Callable[[], Any]) -> list[Any]:
    """What each returns, in threads that begin at the same moment; the first error is raised here."""
    start, results, errors = threading.Barrier(len(actions)), [None] * len(actions), []

    def run(number: int) -> None:
        try:
            start.wait(timeout=300)
            results[number] = actions[number]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert not any(thread.is_alive() for thread in threads)
    for error in errors:
        raise error
    return results


def pair(**options: Any) -> dg.Engine:
    target = tiny_lm()
    return dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.05), **{"budget": 8, **options})


def test_requests_closed_broken_and_dropped_among_others() -> None:
    seen, cells = stress(threads=4, requests=80)
    assert set(seen) <= {"right", "fault"}
    assert seen["fault"] > 0
    assert cells == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("rule", ["auto", "agree"])
def test_a_seed_gives_its_text_whoever_else_is_running(temperature: float, rule: str) -> None:
    engine = pair(rule=rule)
    params = [dg.SamplingParams(max_new_tokens=20, temperature=temperature, seed=seed) for seed in range(6)]
    alone = [engine.generate(PROMPT, its).token_ids for its in params]
    assert together(*(lambda its=its: engine.generate(PROMPT, its).token_ids for its in params)) == alone


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    engine = pair(budget=0)
    long = engine.stream(PROMPT, dg.SamplingParams(max_new_tokens=120))
    begun, ended = threading.Event(), threading.Event()
    after = []

    def run_long() -> None:
        for _ in long:
            begun.set()
            after.append(ended.wait(300) if len(after) == 10 else ended.is_set())

    def run_short() -> list[int]:
        begun.wait(timeout=300)
        tokens = engine.generate([7, 3], dg.SamplingParams(max_new_tokens=4)).token_ids
        ended.set()
        return tokens

    assert together(run_long, run_short)[1] == plain(engine.target.model, [7, 3], 4)
    assert len(after) == 120
    assert all(after[10:])  # the short request had ended in the midst of the long one


def test_streams_of_two_threads_take_turns() -> None:
    engine, meeting = pair(budget=0), threading.Barrier(2)

    def run(number: int) -> list[int]:
        tokens: list[int] = []
        for event in engine.stream(PROMPTS[number], dg.SamplingParams(max_new_tokens=100)):
            tokens += event.token_ids
            if len(tokens) in (1, 50, 51):
                meeting.wait(300)
        return tokens

    texts = together(lambda: run(0), lambda: run(1))
    assert texts == [plain(engine.target.model, prompt, 100) for prompt in PROMPTS[:2]]


def test_one_stream_shared_by_threads_gives_every_event_once() -> None:
    engine = pair(budget=0)
    stream, tokens = engine.stream(PROMPT, PARAMS), []

    def read() -> None:
        for event in stream:
            tokens.extend(event.token_ids)

    together(read, read, read)
    assert sorted(tokens) == sorted(plain(engine.target.model, PROMPT, 40))
    assert stream.result().token_ids == plain(engine.target.model, PROMPT, 40)


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.005, 0.02])
def test_a_stream_is_closed_by_another_thread(delay: float) -> None:
    engine = pair()
    stream, tokens = engine.stream(PROMPT, dg.SamplingParams(max_new_tokens=120)), []

    def close() -> int:
        time.sleep(delay)
        stream.close()
        return len(engine.target.cache._used)

    def read() -> None:
        for event in stream:
            tokens.extend(event.token_ids)

    assert together(read, close)[1] == 0  # once `close` has returned
    assert tokens == plain(engine.target.model, PROMPT, 120)[: len(tokens)]
    assert next(stream, None) is None


def test_a_callback_closes_its_own_stream() -> None:
    engine = pair(budget=0)
    stream: Stream | None = None
    told = []

    def stop(token: int, logits: torch.Tensor, scores: torch.Tensor) -> bool:
        told.append(token)
        if len(told) == 3:
            assert stream is not None
            stream.close()
        return False

    stream = engine.stream(PROMPT, dg.SamplingParams(max_new_tokens=20, stop_when=stop))
    assert [token for event in stream for token in event.token_ids] == told == plain(engine.target.model, PROMPT, 3)
    assert not engine.target.cache._used


def test_the_garbage_collector_ends_a_stream_in_the_midst_of_another_pass() -> None:
    engine = pair()
    right = plain(engine.target.model, PROMPT, 40)
    forgotten: list[Any] = []

    def forget(module: torch.nn.Module, args: Any) -> None:
        if forgotten:
            forgotten.clear()
            gc.collect()

    handle = engine.target.model.model.layers[1].register_forward_pre_hook(forget)
    for rounds in range(4):
        stream: Any = engine.stream([7, 3, 9, 7, 3], PARAMS)
        for _ in range(rounds):
            next(stream)
        stream.itself = stream
        forgotten.append(stream)
        del stream
        assert engine.generate(PROMPT, PARAMS).token_ids == right
        assert not engine.target.cache._used
    handle.remove()


def test_costs_are_measured_once_while_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(*pair: Any) -> Any:
        measured.append(threading.get_ident())
        time.sleep(0.05)
        return costs()

    monkeypatch.setattr("draftgraph.engine.engine.pair_costs", measure)
    engine = pair(budget="auto")
    texts = together(*[lambda: engine.generate(PROMPT, PARAMS).token_ids] * 6)
    assert texts == [plain(engine.target.model, PROMPT, 40)] * 6
    assert len(measured) == 1


def test_a_measurement_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter((KeyboardInterrupt(), None))

    def measure(*pair: Any) -> Any:
        if (error := next(calls)) is not None:
            raise error
        return costs()

    monkeypatch.setattr("draftgraph.engine.engine.pair_costs", measure)
    engine = pair(budget="auto")
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPT, PARAMS)
    assert together(lambda: engine.generate(PROMPT, PARAMS).token_ids) == [plain(engine.target.model, PROMPT, 40)]


def test_coroutines_share_an_engine_through_threads() -> None:
    engine = pair()

    async def ask(prompt: list[int]) -> list[int]:
        return (await asyncio.to_thread(engine.generate, prompt, PARAMS)).token_ids

    async def everything() -> list[list[int]]:
        return await asyncio.gather(*map(ask, PROMPTS))

    assert asyncio.run(everything()) == [plain(engine.target.model, prompt, 40) for prompt in PROMPTS]


def test_a_callable_of_custom_generate_is_shared_by_threads() -> None:
    target = tiny_lm()
    loop = dg.custom_generate(perturbed(target, 0.05), budget=6)

    def ask(prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt])
        options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 40, "pad_token_id": 0}
        return target.generate(ids, **options, custom_generate=loop)[0, len(prompt) :].tolist()  # type: ignore[no-any-return]

    assert together(*(lambda prompt=prompt: ask(prompt) for prompt in PROMPTS)) == [
        plain(target, prompt, 40) for prompt in PROMPTS
    ]


def test_engines_are_built_in_threads(tmp_path: Path) -> None:
    target, drafter = save_pair(tmp_path)
    engines = together(*[lambda: dg.Engine.from_pretrained(target, draft_model=drafter, budget=4)] * 4)
    texts = together(*(lambda engine=engine: engine.generate(PROMPT, PARAMS).token_ids for engine in engines))
    assert texts == [plain(load_model(target, None, "cpu"), PROMPT, 40)] * 4
    assert {engine.target.dtype for engine in engines} == {torch.float32}
    assert torch.get_default_dtype() == torch.float32


def test_a_table_is_learnt_and_read_by_threads() -> None:
    table = TokenTable(max_rows=5)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(3000):
            suffix = [draw.randrange(6) for _ in range(draw.randrange(4))]
            table.learn(suffix, Row([seed], [1.0]))
            found = table.find(suffix)
            assert found is None or found[0] in (1, 2)

    together(*(lambda seed=seed: work(seed) for seed in range(4)))
    assert len(table) <= 5


def test_a_callback_that_asks_for_the_next_event_is_refused_and_harms_nobody() -> None:
    engine = pair(budget=4)
    alone = engine.generate([1, 2, 3], max_new_tokens=12).token_ids
    refused: list[str] = []

    def ask(*row: Any) -> bool:
        try:
            next(stream)
        except DraftgraphError as error:
            refused.append(str(error))
        return False

    stream = engine.stream([1, 2, 3], max_new_tokens=12, stop_when=ask)
    assert [token for event in stream for token in event.token_ids] == alone
    assert len(refused) == 12
    assert "from outside" in refused[0]
