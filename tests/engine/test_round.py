"""A round charges every request its own share, and long prompts are read before it, piece by piece."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

import draftgraph as dg
from company import succeeded
from draftgraph.budget.limits import Windows, limits
from draftgraph.engine.prefill import prefill
from draftgraph.engine.requests import make_course
from draftgraph.engine.round import decode_round
from draftgraph.request.clock import Clock
from draftgraph.request.state import Request
from held import until
from models import perturbed, plain, tiny_lm

LONG = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7]
LOOKS = 60
"""Looks at the clock that a round of two takes at most; forwards take hundreds of them."""


class Ticks:
    """A time that passes by one at every look, and by more in the forwards of a model, by their rows."""

    def __init__(self) -> None:
        self.now = 0.0
        self.spent: dict[torch.nn.Module, float] = {}

    def __call__(self) -> float:
        self.now += 1.0
        return self.now

    def slow(self, model: torch.nn.Module, per_row: float) -> None:
        def hook(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            seconds = per_row * kwargs["input_ids"].shape[1]
            self.spent[model] += seconds
            self.now += seconds

        self.spent[model] = 0.0
        model.register_forward_pre_hook(hook, with_kwargs=True)


def begun(engine: dg.Engine, prompt: list[int], time: Callable[[], float], **options: Any) -> Request:
    params = dg.SamplingParams(max_new_tokens=20, temperature=1.0, seed=len(prompt), **options)
    request = make_course(engine, prompt, params).request
    request.clock = Clock(time)
    request.text = engine.target.open(64)
    engine.drafter.begin(request)
    return request


def bounds(engine: dg.Engine, request: Request) -> Any:
    return limits(engine.config.budget, None, request, Windows.of(engine.target, engine.drafter))


def test_a_round_of_two_charges_each_its_share_and_all_of_its_time_once() -> None:
    target = tiny_lm()
    drafter = perturbed(target, 0.1)
    engine = dg.Engine.from_pretrained(target, draft_model=drafter, budget=6)
    time = Ticks()
    time.slow(target, 1000.0)
    time.slow(drafter, 100.0)
    long, short = requests = [begun(engine, prompt, time) for prompt in (LONG, [7, 8])]
    for number in range(4):
        fed = [len(request.tokens) - len(request.text) for request in requests]
        before, drafters = time.now, time.spent[drafter]
        succeeded(
            decode_round(requests, engine.drafter, engine.target, [bounds(engine, request) for request in requests])
        )
        records = [request.rounds[number] for request in requests]
        charged = sum(sum(record.seconds.values()) for record in records)
        assert time.now - before - LOOKS < charged <= time.now - before
        rows = [new + len(record.tokens) for new, record in zip(fed, records, strict=True)]
        shares = [record.seconds["target"] for record in records]
        assert sum(shares) == pytest.approx(1000.0 * sum(rows) + 1.0)
        assert shares[0] / shares[1] == pytest.approx(rows[0] / rows[1])
        passes = max(record.num_passes for record in records)  # which both share
        assert sum(record.seconds["drafter"] for record in records) == time.spent[drafter] - drafters + passes
        assert all(record.seconds["drafting"] < 20.0 for record in records)  # looks, and no forward
    assert long.rounds[0].seconds is not short.rounds[0].seconds
    for request in requests:
        for part, seconds in request.tally.seconds.items():
            assert seconds == pytest.approx(sum(record.seconds[part] for record in request.rounds))
            assert not any(record.seconds is request.clock.seconds for record in request.rounds)


def test_a_request_alone_and_among_others_has_the_same_rows_and_records() -> None:
    target = tiny_lm()
    engine = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.1), budget=6)
    together = [begun(engine, prompt, Ticks()) for prompt in (LONG, [7, 8])]
    alone = begun(engine, LONG, Ticks())
    for _ in range(3):
        succeeded(
            decode_round(together, engine.drafter, engine.target, [bounds(engine, request) for request in together])
        )
        succeeded(decode_round([alone], engine.drafter, engine.target, [bounds(engine, alone)]))
    assert together[0].tokens == alone.tokens
    assert [record.tokens for record in together[0].rounds] == [record.tokens for record in alone.rounds]


# --- prefill is a step of its own -------------------------------------------------------------------------------------


@pytest.fixture
def engine() -> dg.Engine:
    target = tiny_lm()
    made = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.1), budget=6)
    made.target.most_rows = 4
    assert made.drafter.model is not None
    made.drafter.model.most_rows = 3
    return made


def held(engine: dg.Engine) -> int:
    return len(engine.target.cache._used) + len(engine.drafter.model.cache._used)  # type: ignore[attr-defined]


def test_every_piece_is_a_step_of_target_and_then_drafter(engine: dg.Engine) -> None:
    request = begun(engine, LONG, Ticks())
    read = []
    while prefill(request, engine.drafter, engine.target, bounds(engine, request)):
        read.append((len(request.text), len(request.drafting.text)))
    assert read == [(4, 0), (8, 0), (8, 3), (8, 6), (8, 9)]
    assert request.clock.seconds["target"] > 0.0
    assert request.clock.seconds["drafter"] > 0.0
    succeeded(decode_round([request], engine.drafter, engine.target, [bounds(engine, request)]))
    assert request.rounds[0].seconds["target"] >= 2.0  # the pieces are the first round's


def test_pieces_are_no_events_and_change_no_statistics(engine: dg.Engine) -> None:
    whole = dg.Engine.from_pretrained(engine.target.model, draft_model=engine.drafter.model.model, budget=6)  # type: ignore
    for temperature in (0.0, 1.0):
        options = {"max_new_tokens": 12, "temperature": temperature, "seed": 2}
        ours, theirs = engine.generate(LONG, **options), whole.generate(LONG, **options)
        assert ours.token_ids == theirs.token_ids
        assert {**ours.stats.to_dict(), "seconds": 0} == {**theirs.stats.to_dict(), "seconds": 0}
    assert engine.generate(LONG, max_new_tokens=12).token_ids == plain(engine.target.model, LONG, 12)  # type: ignore


def test_a_drafter_that_is_not_asked_reads_nothing(engine: dg.Engine) -> None:
    engine.config = engine.config.with_options(budget=0)
    request = begun(engine, LONG, Ticks())
    while prefill(request, engine.drafter, engine.target, bounds(engine, request)):
        pass
    assert (len(request.text), len(request.drafting.text)) == (8, 0)


@pytest.mark.parametrize("model", ["target", "drafter"])
@pytest.mark.parametrize("other_thread", [False, True])
def test_a_stream_that_is_closed_between_pieces_frees_everything(
    engine: dg.Engine, model: str, other_thread: bool
) -> None:
    """By a callback in the midst of a piece, or by another thread that waits for its turn."""
    passes: list[int] = []
    closing: list[threading.Thread] = []
    stream = engine.stream(LONG, max_new_tokens=12)

    def close(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        passes.append(kwargs["input_ids"].shape[1])
        if len(passes) == 2 and other_thread:
            closing.append(threading.Thread(target=stream.close))
            closing[0].start()
            until(lambda: stream._closed)
        elif len(passes) == 2:
            stream.close()

    backend: Any = engine.target if model == "target" else engine.drafter.model
    hook = backend.model.register_forward_pre_hook(close, with_kwargs=True)
    with pytest.raises(StopIteration):
        next(stream)
    for thread in closing:
        thread.join(60)
    hook.remove()
    assert passes == [backend.most_rows] * 2
    assert held(engine) == 0
    assert stream.result().token_ids == []
    assert stream.result().finish_reason is None
    assert engine.generate(LONG, max_new_tokens=5).token_ids == plain(engine.target.model, LONG, 5)  # type: ignore


def test_a_piece_that_fails_frees_everything(engine: dg.Engine) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    hook = engine.drafter.model.model.register_forward_pre_hook(fail)  # type: ignore[union-attr]
    with pytest.raises(MemoryError):
        engine.generate(LONG, max_new_tokens=5)
    hook.remove()
    assert held(engine) == 0


def test_a_drafter_of_the_users_reads_and_proposes_without_gradients():
    seen = []

    class Watching(dg.Drafter):
        def prefill(self, request, limits):
            seen.append(torch.is_inference_mode_enabled())
            return False

        def propose(self, request, limits):
            seen.append(torch.is_inference_mode_enabled())
            return dg.Draft(dg.DraftGraph())

    dg.Engine.from_pretrained(tiny_lm(), drafter=Watching(), budget=2).generate([1, 2, 3], max_new_tokens=4)
    assert len(seen) > 2
    assert all(seen)
