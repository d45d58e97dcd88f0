"""What prompts begin with alike is read once; texts, and what is cached, are as if it had been read by each."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import pytest
import torch

import draftgraph as dg
from converted import lm
from draftgraph.engine.prefixes import LEAST_TOKENS, MOST_KEPT
from draftgraph.engine.requests import make_course
from draftgraph.engine.scheduler import Scheduler
from draftgraph.engine.serving import cell_bytes
from models import perturbed, plain, tiny_lm
from recurrent import recurrent

SYSTEM = [(7 * n) % 60 for n in range(200)]
PROMPTS = [*([*SYSTEM, n, n + 1] for n in range(4)), [5, 9, 5], [*SYSTEM[:150], 3, 3], SYSTEM[:LEAST_TOKENS]]
TOKENS = 10


@cache
def engine(kind: str) -> dg.Engine:
    target: Any = lm() if kind in ("openvino", "bitwise") else tiny_lm(window=1024)
    options: dict[str, Any] = {"budget": 6}
    if kind in ("openvino", "bitwise"):
        options |= {"backend": "openvino", "bitwise": kind == "bitwise"}
    if kind == "recurrent":
        return dg.Engine.from_pretrained(recurrent("mamba"), budget=4)
    if kind == "window":
        target = tiny_lm("mistral", window=1024, num_key_value_heads=2, sliding_window=40)
        return dg.Engine.from_pretrained(target, budget=4)
    if kind != "lookup":
        options["draft_model"] = perturbed(target, 0.05)
    return dg.Engine.from_pretrained(target, **options)


def cached(results: list[dg.Result]) -> list[int]:
    return [result.stats.num_cached_prompt_tokens for result in results]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", ["pair", "lookup", "openvino"])
def test_a_batch_reads_its_common_beginning_once(kind: str, temperature: float) -> None:
    made = engine(kind)
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "temperature": temperature, "seed": 2}
    alone = [made.generate(prompt, **options).token_ids for prompt in PROMPTS]
    together = made.generate(PROMPTS, **options)
    assert [result.token_ids for result in together] == alone
    assert cached(together) == [0, 200, 200, 200, 0, 150, 0]
    assert [result.stats.num_prompt_tokens for result in together] == list(map(len, PROMPTS))


@pytest.mark.parametrize("kind", ["pair", "openvino"])
def test_several_samples_of_one_prompt_read_it_once_but_for_its_last_token(kind: str) -> None:
    made = engine(kind)
    params = [{"max_new_tokens": TOKENS, "temperature": 0.8, "seed": 1, "sample": n} for n in range(3)]
    alone = [made.generate(PROMPTS[0], its).token_ids for its in params]
    together = made.generate([PROMPTS[0]] * 3, params)
    assert [result.token_ids for result in together] == alone
    assert cached(together) == [0, 201, 201]


@pytest.mark.parametrize("kind", ["bitwise", "recurrent", "window"])
def test_models_that_cannot_share_or_that_forget(kind: str) -> None:
    made = engine(kind)
    prompts = [[token % 50 for token in prompt] for prompt in PROMPTS]
    alone = [made.generate(prompt, max_new_tokens=TOKENS, logprobs=True) for prompt in prompts]
    together = made.generate(prompts, max_new_tokens=TOKENS, logprobs=True)
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]
    if kind != "window":  # it shares what it has not forgotten yet
        assert cached(together) == [0] * len(PROMPTS)
    if kind == "bitwise":
        assert [result.logprobs for result in together] == [result.logprobs for result in alone]


class Tapped(dg.Drafter):
    """Counts the rows that the target reads for it."""

    taps = ("hidden:1",)

    def begin(self, request: Any) -> None:
        request.drafting = []

    def read(self, request: Any, taps: Any, path: Any) -> None:
        request.drafting.append(len(taps["hidden:1"]))

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        assert sum(request.drafting) in (0, len(request.tokens) - 1)
        return dg.Draft(dg.DraftGraph())


def test_a_drafter_that_reads_hidden_states_gets_those_of_every_token() -> None:
    made = dg.Engine.from_pretrained(tiny_lm(window=1024), drafter=Tapped(), budget=2)
    results = made.generate(PROMPTS[:3], max_new_tokens=4)
    assert cached(results) == [0, 0, 0]


def board(made: dg.Engine, **options: Any) -> Scheduler:
    return Scheduler(made.target, made.drafter, dg.Serving(**options))


def end(scheduler: Scheduler) -> None:
    while scheduler.busy:
        scheduler.step()


def used(made: dg.Engine) -> int:
    return len(made.target.cache._used) + len(made.drafter.model.cache._used)  # type: ignore[attr-defined, union-attr]


def test_a_conversation_goes_on_from_its_last_answer() -> None:
    made = engine("pair")
    scheduler, text = board(made), PROMPTS[0]
    for turn in range(4):
        ticket = scheduler.add(make_course(made, text, {"max_new_tokens": TOKENS}))
        end(scheduler)
        result = ticket.course.result()
        assert result.token_ids == plain(made.target.model, text, TOKENS)  # type: ignore[attr-defined]
        known = result.stats.num_cached_prompt_tokens
        assert known == 0 if turn == 0 else len(text) - 5 <= known < len(text)
        text = [*text, *result.token_ids, 3, 4]
    assert len(scheduler.prefixes._kept) == 1  # each turn holds the one before
    scheduler.close()
    assert used(made) == 0


def test_finished_texts_make_way_and_are_few() -> None:
    made = engine("pair")
    size = cell_bytes(made.target, made.drafter)
    scheduler = board(made, memory=1200 * size)
    for number in range(20):
        scheduler.add(make_course(made, [number] * 90, {"max_new_tokens": 3}))
        end(scheduler)
        assert scheduler.prefixes.cells == sum(len(kept.tokens) for kept in scheduler.prefixes._kept) <= 300
        assert scheduler.load.cells_kept == scheduler.prefixes.cells
        assert scheduler.load.cells_used == 0
    last = scheduler.add(make_course(made, [19] * 100, {"max_new_tokens": 3}))
    end(scheduler)
    assert last.course.result().stats.num_cached_prompt_tokens == 90
    first = scheduler.add(make_course(made, [0] * 100, {"max_new_tokens": 3}))
    end(scheduler)
    assert first.course.result().stats.num_cached_prompt_tokens == 0  # it was not used for longest
    whole = scheduler.add(make_course(made, [5] * 500, {"max_new_tokens": 500}))
    scheduler.step()
    assert whole in scheduler.running
    assert scheduler.load.cells_used + scheduler.load.cells_kept <= 1200
    scheduler.close()
    assert used(made) == 0
    many = board(made)
    for number in range(MOST_KEPT + 8):
        many.add(make_course(made, [number] * 70, {"max_new_tokens": 1}))
        end(many)
    assert len(many.prefixes._kept) == MOST_KEPT
    many.close()
    assert used(made) == 0


def test_a_donor_that_is_cancelled_or_fails_leaves_what_others_share() -> None:
    made = engine("pair")
    scheduler = board(made)
    donor = scheduler.add(make_course(made, PROMPTS[0], {"max_new_tokens": 50}))
    scheduler.step()
    others = [scheduler.add(make_course(made, prompt, {"max_new_tokens": TOKENS})) for prompt in PROMPTS[1:4]]
    scheduler.step()
    scheduler.cancel(donor)
    end(scheduler)
    for ticket, prompt in zip(others, PROMPTS[1:4], strict=True):
        result = ticket.course.result()
        assert result.token_ids == plain(made.target.model, prompt, TOKENS)  # type: ignore[attr-defined]
        assert result.stats.num_cached_prompt_tokens == 200
    scheduler.close()
    assert used(made) == 0


def test_a_donor_that_is_cancelled_before_it_has_read_keeps_nobody_waiting() -> None:
    made = engine("pair")
    made.target.most_rows, before = 50, made.target.most_rows
    try:
        scheduler = board(made)
        tickets = [scheduler.add(make_course(made, prompt, {"max_new_tokens": 3})) for prompt in PROMPTS[:3]]
        scheduler.step()
        scheduler.cancel(tickets[0])
        end(scheduler)
        for ticket, prompt in zip(tickets[1:], PROMPTS[1:3], strict=True):
            assert ticket.course.result().token_ids == plain(made.target.model, prompt, 3)  # type: ignore[attr-defined]
        scheduler.close()
    finally:
        made.target.most_rows = before
    assert used(made) == 0


def test_with_little_memory_nobody_waits_for_a_prefix_for_ever() -> None:
    made = engine("lookup")
    size = cell_bytes(made.target, made.drafter)
    for cells in (250, 333, 480):
        scheduler = board(made, memory=cells * size)
        tickets = [scheduler.add(make_course(made, prompt, {"max_new_tokens": 20})) for prompt in PROMPTS * 2]
        for _ in range(3000):
            scheduler.step()
            if not scheduler.busy:
                break
        assert not scheduler.busy
        assert all(ticket.course.request.finish_reason == "length" for ticket in tickets)
        scheduler.close()


def test_the_background_scheduler_remembers_between_calls() -> None:
    made = engine("lookup")

    async def ask(prompt: list[int]) -> int:
        result = await made.agenerate(prompt, max_new_tokens=2)
        return result.stats.num_cached_prompt_tokens  # type: ignore[no-any-return]

    assert [asyncio.run(ask(prompt)) for prompt in PROMPTS[:3]] == [0, 200, 200]
    assert torch.is_inference_mode_enabled() is False
