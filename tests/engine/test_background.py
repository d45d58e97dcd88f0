"""Tasks of any event loop and thread share one scheduler; what is closed, cancelled or dropped is gone at once."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Coroutine
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import draftgraph as dg
from draftgraph.engine import background
from draftgraph.errors import OptionError, PromptError, QueueFullError
from draftgraph.request.result import Event
from held import LIMIT_SECONDS, held, until
from models import perturbed, plain, tiny_lm

PROMPTS = [[5, 9, 5], [7, 3, 9, 7, 3], [11], [40, 2, 40, 2, 40], [1, 2, 3, 4, 5, 6, 7, 8]]
TOKENS = 24


def pair(**options: Any) -> dg.Engine:
    target = tiny_lm()
    return dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.05), **{"budget": 6, **options})


@cache
def engine() -> dg.Engine:
    return pair()


@cache
def right(number: int, tokens: int = TOKENS) -> list[int]:
    return plain(engine().target.model, PROMPTS[number], tokens)  # type: ignore[attr-defined]


def taken(made: dg.Engine) -> int:
    return len(made.target.cache._used) + len(made.drafter.model.cache._used)  # type: ignore[attr-defined, union-attr]


def threads() -> set[threading.Thread]:
    """Of all engines; those of earlier tests may still be about to end."""
    return {thread for thread in threading.enumerate() if thread.name == "draftgraph"}


async def read(stream: Any) -> list[int]:
    return [token async for event in stream for token in event.token_ids]


def run(task: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(task, timeout=LIMIT_SECONDS))


def test_50_tasks_that_stream_and_generate() -> None:
    async def ask(number: int) -> list[int]:
        prompt = PROMPTS[number % 5]
        if number % 3 == 0:
            result = await engine().agenerate(prompt, max_new_tokens=TOKENS)
            return result.token_ids  # type: ignore[no-any-return]
        if number % 3 == 1:
            results = await engine().agenerate([prompt, [1]], [{"max_new_tokens": TOKENS}, {"max_new_tokens": 1}])
            return results[0].token_ids  # type: ignore[no-any-return]
        return await read(engine().astream(prompt, max_new_tokens=TOKENS))

    async def everything() -> list[list[int]]:
        return await asyncio.gather(*map(ask, range(50)))

    assert run(everything()) == [right(number % 5) for number in range(50)]
    until(lambda: engine().load.running == 0)
    assert taken(engine()) == 0


def test_20_threads_each_with_its_loop_beside_plain_calls() -> None:
    found: dict[int, Any] = {}
    before = threads()

    def work(number: int) -> None:
        if number % 4 == 3:
            found[number] = engine().generate(PROMPTS[number % 5], max_new_tokens=TOKENS).token_ids
        else:
            found[number] = run(read(engine().astream(PROMPTS[number % 5], max_new_tokens=TOKENS)))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT_SECONDS)
    assert found == {number: right(number % 5) for number in range(20)}
    assert len(threads() - before) <= 1
    assert taken(engine()) == 0


def test_events_are_those_of_a_stream() -> None:
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "temperature": 0.8, "seed": 4, "top_logprobs": 2}

    async def events() -> tuple[list[Event], dg.Result]:
        stream = engine().astream(PROMPTS[0], **options)
        return [event async for event in stream], stream.result()

    ours, result = run(events())
    theirs = list(engine().stream(PROMPTS[0], **options))
    assert [(event.token_ids, event.drafted, event.finish_reason) for event in ours] == [
        (event.token_ids, event.drafted, event.finish_reason) for event in theirs
    ]
    whole = engine().generate(PROMPTS[0], **options)
    assert result.token_ids == whole.token_ids
    assert result.finish_reason == "length"
    assert result.top_logprobs is not None
    assert [token for event in ours for token, _ in (best[0] for best in event.top_logprobs or ())] == [
        best[0][0] for best in result.top_logprobs
    ]


def test_wrong_prompts_and_options_are_refused_before_anything_is_awaited() -> None:
    with pytest.raises(PromptError):
        engine().astream([])
    with pytest.raises(PromptError, match="a stream continues one prompt"):
        engine().astream(PROMPTS)
    with pytest.raises(OptionError):
        engine().astream(PROMPTS[0], temperature=-1)
    with pytest.raises(OptionError):
        run(engine().agenerate(PROMPTS[0], budget=-1))


# --- closing, cancelling, dropping ------------------------------------------------------------------------------------


def test_a_storm_of_100_that_are_closed_at_once() -> None:
    async def storm() -> None:
        with held(0) as steps:
            streams = [engine().astream(PROMPTS[n % 5], max_new_tokens=100) for n in range(100)]
            kept = engine().astream(PROMPTS[0], max_new_tokens=TOKENS)
            steps.allow(2)
            for stream in streams[:20]:
                await anext(stream)
            closing = [asyncio.ensure_future(stream.aclose()) for stream in streams]
            await asyncio.sleep(0)  # now all of them are cancelled
            steps.free()
            await asyncio.gather(*closing)
        assert engine().load.running + engine().load.waiting <= 1
        assert await read(kept) == right(0)
        assert all(stream.result().finish_reason is None for stream in streams[30:])
        assert taken(engine()) == 0

    run(storm())


def test_100_cancelled_tasks() -> None:
    async def storm() -> None:
        tasks = [asyncio.create_task(read(engine().astream(PROMPTS[n % 5], max_new_tokens=100))) for n in range(50)]
        tasks += [asyncio.create_task(engine().agenerate(PROMPTS[n % 5], max_new_tokens=100)) for n in range(50)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError | list | dg.Result) for outcome in outcomes)
        assert await read(engine().astream(PROMPTS[1], max_new_tokens=TOKENS)) == right(1)

    run(storm())
    until(lambda: engine().load.running == 0)
    assert taken(engine()) == 0


def test_closing_returns_when_nothing_is_cached() -> None:
    async def close() -> None:
        with held(1) as steps:
            stream = engine().astream(PROMPTS[0], max_new_tokens=100)
            event = await anext(stream)
            assert list(event.token_ids) == right(0)[: len(event.token_ids)]
            closing = asyncio.ensure_future(stream.aclose())
            await asyncio.sleep(0)
            steps.free()
            await closing
        assert taken(engine()) == 0
        assert [event async for event in stream] == []
        assert stream.result().finish_reason is None
        assert stream.result().token_ids == right(0, 100)[: len(stream.result().token_ids)]
        await stream.aclose()

    run(close())


def test_a_loop_that_is_left_ends_the_request() -> None:
    async def leave() -> None:
        async for _ in engine().astream(PROMPTS[0], max_new_tokens=100):
            break

    run(leave())
    gc.collect()
    until(lambda: engine().load.running == 0)
    assert taken(engine()) == 0


def test_a_timeout_ends_the_request() -> None:
    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(engine().astream(PROMPTS[0], max_new_tokens=100)), 0.1)

    with held(3):
        run(wait())
    until(lambda: engine().load.running == 0)
    assert taken(engine()) == 0


def test_a_stream_goes_on_in_another_loop_and_for_several_tasks() -> None:
    made = engine()
    stream = made.astream(PROMPTS[0], max_new_tokens=TOKENS)  # outside of any loop

    async def first() -> list[int]:
        return list((await anext(stream)).token_ids)

    async def rest() -> list[int]:
        parts = await asyncio.gather(*(read(stream) for _ in range(3)))
        return sorted(token for part in parts for token in part)

    begun = run(first())
    assert sorted([*begun, *run(rest())]) == sorted(right(0))
    assert stream.result().token_ids == right(0)


def test_a_result_so_far_is_whole_while_rounds_go_on() -> None:
    made, results = engine(), []

    async def watch() -> None:
        stream = made.astream(PROMPTS[0], max_new_tokens=50)  # too short to be kept
        async for _ in stream:
            results.append(stream.result())

    run(watch())
    for result in results:
        assert result.token_ids == right(0, 100)[: len(result.token_ids)]
        assert result.stats.num_output_tokens == len(result.token_ids)
        assert sum(len(record.path) + 1 for record in result.rounds) >= len(result.token_ids)


# --- errors -----------------------------------------------------------------------------------------------------------


def breaking(*_: Any) -> bool:
    raise ZeroDivisionError("on purpose")


def test_a_failing_request_among_good_ones() -> None:
    async def everything() -> list[Any]:
        asked = [read(engine().astream(prompt, max_new_tokens=TOKENS)) for prompt in PROMPTS]
        asked.append(read(engine().astream(PROMPTS[0], max_new_tokens=TOKENS, stop_when=breaking)))
        return await asyncio.gather(*asked, return_exceptions=True)

    *good, bad = run(everything())
    assert good == [right(number) for number in range(5)]
    assert isinstance(bad, ZeroDivisionError)
    assert bad.partial.token_ids == right(0)[:1]  # type: ignore[attr-defined]
    assert taken(engine()) == 0


def test_a_batch_with_a_failing_request_lets_the_others_finish() -> None:
    params = [{"max_new_tokens": TOKENS, "stop_when": breaking if number == 2 else None} for number in range(5)]
    with pytest.raises(ZeroDivisionError) as raised:
        run(engine().agenerate(PROMPTS, params))
    error: Any = raised.value
    assert [result.token_ids for result in error.finished] == [right(0), right(1)]
    assert [result.finish_reason for result in error.results] == ["length", "length", None, "length", "length"]


def test_what_breaks_a_whole_step_is_told_to_everybody_and_the_next_request_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = pair()

    def broken(*_: Any) -> Any:
        raise MemoryError("on purpose")

    async def ask(prompt: list[int]) -> Any:
        return await asyncio.gather(read(made.astream(prompt, max_new_tokens=9)), return_exceptions=True)

    with monkeypatch.context() as patch:
        patch.setattr("draftgraph.engine.schedules.decode_round", broken)
        outcomes = [run(ask(prompt))[0] for prompt in PROMPTS]
    assert [type(outcome) for outcome in outcomes] == [MemoryError] * 5
    assert all(outcome.partial.token_ids == [] for outcome in outcomes)
    assert run(read(made.astream(PROMPTS[0], max_new_tokens=9))) == right(0)[:9]
    assert taken(made) == 0


def test_a_full_queue_is_told_at_once_and_a_long_batch_waits_for_itself() -> None:
    made = pair(max_batch=2, queue=3)

    async def everything() -> None:
        with held(1):
            streams = [made.astream(PROMPTS[n], max_new_tokens=100) for n in range(5)]
            with pytest.raises(QueueFullError, match="and 3 may wait"):
                made.astream(PROMPTS[0])
            with pytest.raises(QueueFullError):
                await made.agenerate(PROMPTS)
        for stream in streams:
            await stream.aclose()
        results = await made.agenerate(PROMPTS * 6, max_new_tokens=5)
        assert [result.token_ids for result in results] == [right(n)[:5] for n in range(5)] * 6

    run(everything())
    assert taken(made) == 0


# --- the thread -------------------------------------------------------------------------------------------------------


def test_the_thread_starts_when_needed_and_ends_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IDLE_SECONDS", 0.05)
    made = pair()
    before = threads()
    made.generate(PROMPTS, max_new_tokens=3)
    assert threads() <= before
    for _ in range(3):
        assert run(made.agenerate(PROMPTS[0], max_new_tokens=TOKENS)).token_ids == right(0)
        assert len(threads() - before) <= 1
        until(lambda: threads() <= before)


def test_requests_that_come_just_when_the_thread_ends_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IDLE_SECONDS", 0.001)
    made = pair(budget=0)
    for number in range(60):
        time.sleep(0.0002 * (number % 12))
        assert run(made.agenerate(PROMPTS[2], max_new_tokens=1)).token_ids == right(2)[:1]


def test_an_idle_thread_is_woken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IDLE_SECONDS", 300.0)
    made = pair(budget=0)
    for _ in range(3):
        assert run(made.agenerate(PROMPTS[2], max_new_tokens=1)).token_ids == right(2)[:1]
        stream = made.astream(PROMPTS[0], max_new_tokens=100)
        run(stream.aclose())
        time.sleep(0.05)


def test_an_engine_that_is_gone_takes_its_thread_along() -> None:
    before = threads()
    made = pair()
    stream = made.astream(PROMPTS[0], max_new_tokens=TOKENS)
    (thread,) = threads() - before
    del made
    gc.collect()
    assert run(read(stream)) == right(0)  # the stream keeps what it needs
    del stream
    gc.collect()
    thread.join(LIMIT_SECONDS)
    assert not thread.is_alive()


SCRIPT = """
import asyncio, os, signal, sys, threading, time
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import draftgraph as dg
from models import tiny_lm
engine = dg.Engine.from_pretrained(tiny_lm(), budget=0)

async def read(stream):
    return [token async for event in stream for token in event.token_ids]

{body}
"""


BODY = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # which whoever runs the tests may have had ignored

over = threading.Event()  # the request is in the midst of a step until the program goes on

async def main():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    await read(engine.astream([5, 9], max_new_tokens=120, stop_when=lambda *_: over.wait(60) and False))

try:
    asyncio.run(main())
except KeyboardInterrupt:
    over.set()
    end = time.monotonic() + 60
    while engine.load.running and time.monotonic() < end:
        time.sleep(0.01)
    print("interrupted", engine.load.running, len(engine.target.cache._used), flush=True)  # not in the fork's buffer too

stream = engine.astream([5, 9], max_new_tokens=100)
child = os.fork()
if child == 0:
    try:
        engine.astream([5])
    except dg.DraftgraphError as error:
        print("forked:", error, flush=True)
    del stream
    os._exit(0)
os.waitpid(child, 0)
print(len(asyncio.run(read(stream))))

streams = [engine.astream([n], max_new_tokens=100, stop_when=lambda *_: time.sleep(0.01)) for n in range(9)]
time.sleep(0.1)
print("ends")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_program_is_interrupted_and_forked_and_ends_in_the_midst_of_requests() -> None:
    source = SCRIPT.format(tests=str(Path(__file__).parents[1]), body=BODY)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 4, done.stdout
    interrupted, forked, read, ends = done.stdout.splitlines()
    assert interrupted == "interrupted 0 0"
    assert "make an engine in the new process" in forked
    assert (read, ends) == ("100", "ends")


@pytest.mark.parametrize("use", ["generate", "a list", "a stream", "nothing"])
def test_an_engine_that_nobody_uses_any_more_is_gone_with_its_models(use: str) -> None:
    made = pair()
    if use == "generate":
        made.generate(PROMPTS[0], max_new_tokens=4)
    elif use == "a list":
        made.generate(PROMPTS[:2], max_new_tokens=4)
    elif use == "a stream":
        next(made.stream(PROMPTS[0], max_new_tokens=4))
    gone = [weakref.ref(each) for each in (made, made.target, made.drafter)]
    del made
    gc.collect()
    assert [each() for each in gone] == [None, None, None]


class Slow:
    """A scheduler that takes its time to let go of what it holds."""

    busy = True

    def __init__(self) -> None:
        self.freeing, self.freed = threading.Event(), threading.Event()

    def step(self) -> list[Any]:
        return []

    def __del__(self) -> None:
        self.freeing.set()
        time.sleep(0.3)
        self.freed.set()


def test_the_end_of_the_program_waits_for_a_thread_that_frees_what_it_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loop knows it no longer by then. Killed within a destructor of a backend, it would take the process with it."""
    for name in ("_LOOPS", "_THREADS"):
        monkeypatch.setattr(background, name, weakref.WeakSet())
    slow: Any = Slow()
    freeing, freed = slow.freeing, slow.freed
    made = [slow]
    loop: Any = background._Loop(made.pop)
    loop.scheduler()
    with loop.wake:
        loop._start()
    loop.stop()
    del slow, loop
    assert freeing.wait(LIMIT_SECONDS)
    background._at_exit()
    assert freed.is_set()
