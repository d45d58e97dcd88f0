"""Requests join and leave between rounds, and nobody's text depends on who else is there."""

from __future__ import annotations

import gc
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import draftgraph as dg
from converted import lm
from cost_tables import costs
from draftgraph.engine.requests import make_course
from draftgraph.engine.scheduler import Scheduler, Ticket
from draftgraph.engine.serving import cell_bytes
from draftgraph.errors import DraftgraphError, LogitsError, OptionError, QueueFullError
from draftgraph.request.result import Event
from models import byte_tokenizer, perturbed, plain, tiny_lm

PROMPTS = [[5, 9, 5], [7, 3, 9, 7, 3], [11], [40, 2, 40, 2, 40], list(range(1, 25)), [3] * 40]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"budget": 0},
    {"budget": 9, "structure": "tree"},
    {"num_speculative_tokens": 2, "rule": "block"},
    {"rule": "agree"},
    {"rule": "token", "structure": "chain"},
    {"prediction": [9, 32, 3, 32, 3, 32, 23], "budget": 5},
]
RUNNABLE = [None, "agree", "layer", "walk", "block", "token", "recursive", "traversal", "multipath", "kseq"]


@cache
def engine(kind: str) -> dg.Engine:
    """Of a pair whose prompts are read in several pieces."""
    target = tiny_lm()
    if kind == "openvino":
        target = lm()
        made = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.05), backend="openvino", budget=6)
    elif kind == "bitwise":
        target = lm()
        options: dict[str, Any] = {"backend": "openvino", "dtype": torch.bfloat16, "bitwise": True, "budget": 6}
        made = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.05), **options)
    elif kind == "lookup":
        made = dg.Engine.from_pretrained(target, budget=8)
    else:
        made = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.05))
        made.__dict__["costs"] = costs()
    made.target.most_rows = 16
    if made.drafter.model is not None:
        made.drafter.model.most_rows = 12
    return made


@cache
def alone(kind: str, prompt: int, drafting: int, temperature: float, rule: str | None, tokens: int) -> dg.Result:
    return engine(kind).generate(PROMPTS[prompt], **asked(drafting, temperature, rule, tokens))


def asked(drafting: int, temperature: float, rule: str | None, tokens: int) -> dict[str, Any]:
    drafts = OPTIONS[drafting] if rule is None else {"rule": rule}
    return {"max_new_tokens": tokens, "temperature": temperature, "seed": drafting, "logprobs": True, **drafts}


def scheduler(made: dg.Engine, **options: Any) -> Scheduler:
    return Scheduler(made.target, made.drafter, dg.Serving(**options))


def cells(made: dg.Engine) -> int:
    """Cells that the target's pool counts as used."""
    return len(made.target.cache._used)  # type: ignore[attr-defined]


def run(made: Scheduler, ticket: Ticket) -> list[int]:
    """The tokens of a request, whoever else is there."""
    tokens: list[int] = []
    while ticket in made.running or ticket in made.waiting:
        for other, outcome in made.step():
            if other is ticket:
                assert isinstance(outcome, Event), outcome
                tokens += outcome.token_ids
    return tokens


requests = st.tuples(
    st.integers(0, len(PROMPTS) - 1),
    st.integers(0, len(OPTIONS) - 1),
    st.sampled_from([0.0, 0.8]),
    st.none(),
    st.sampled_from([1, 7, 20]),
)
plays = st.lists(st.one_of(requests, st.just("step"), st.just("step"), st.integers(0, 9)), min_size=4, max_size=24)
"""A play: requests that join, steps, and numbers of requests that are cancelled."""


def check_play(kind: str, play: list[Any], **options: Any) -> None:
    """Whoever is not cancelled has the text, and the log-probabilities, that it has alone."""
    made = engine(kind)
    board = scheduler(made, **options)
    tickets: dict[Ticket, Any] = {}
    ended: set[Ticket] = set()
    for act in [*play, *["step"] * 400]:
        if isinstance(act, tuple):
            tickets[board.add(make_course(made, PROMPTS[act[0]], asked(*act[1:])))] = act
        elif isinstance(act, int) and act < len(tickets):
            gone = list(tickets)[act]
            board.cancel(gone)
            tickets.pop(gone)
        elif act == "step":
            for ticket, outcome in board.step():
                assert isinstance(outcome, Event), outcome
                if outcome.finish_reason is not None:
                    ended.add(ticket)
            if kind in ("pair", "lookup"):
                assert cells(made) == sum(ticket.used for ticket in board.running)
    assert not board.busy
    assert ended >= tickets.keys()
    for ticket, act in tickets.items():
        ours, theirs = ticket.course.result(), alone(kind, *act)
        assert ours.token_ids == theirs.token_ids, act
        assert ours.finish_reason == theirs.finish_reason
        if kind == "bitwise":
            assert ours.logprobs == theirs.logprobs
        else:
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


@pytest.mark.parametrize("kind", ["pair", "lookup", "openvino", "bitwise"])
def test_a_text_does_not_depend_on_who_joins_and_leaves(kind: str) -> None:
    @settings(max_examples=12 if kind == "pair" else 6)
    @given(plays, st.sampled_from([1, 2, 32]))
    def check(play: list[Any], most: int) -> None:
        check_play(kind, play, max_batch=most)

    check()


@pytest.mark.parametrize("rule", RUNNABLE[1:])
def test_under_every_rule_a_seed_gives_its_text_in_company(rule: str) -> None:
    play: list[Any] = [(prompt, drafting, 0.8, rule, 12) for prompt in (0, 1, 4) for drafting in (0, 1)]
    try:
        make_course(engine("pair"), [1], {"rule": rule, "temperature": 0.8})
    except OptionError:
        pytest.skip("no draft of a model that this rule verifies")
    check_play("pair", [play[0], "step", "step", *play[1:4], "step", *play[4:]])


@pytest.mark.parametrize("kind", ["pair", "openvino"])
def test_32_requests_of_mixed_lengths_and_options(kind: str) -> None:
    check_play(kind, [(n % len(PROMPTS), n % len(OPTIONS), (n % 2) * 0.8, None, 1 + n % 9) for n in range(32)])


# --- pieces, turns, places --------------------------------------------------------------------------------------------


def test_long_prompts_are_read_in_turn_one_piece_a_step_while_others_decode() -> None:
    made = engine("lookup")
    board = scheduler(made)
    decoding = board.add(make_course(made, [5, 9], {"max_new_tokens": 60, "budget": 0}))
    board.step()
    long = [board.add(make_course(made, [n] * 60, {"max_new_tokens": 2})) for n in (3, 4)]
    read, events = [], 0
    while any(ticket.reading for ticket in long):
        events += sum(ticket is decoding for ticket, _ in board.step())
        read.append(tuple(len(ticket.course.request.text) for ticket in long))
    assert read[:6] == [(16, 0), (16, 16), (32, 16), (32, 32), (48, 32), (48, 48)]
    assert events == len(read)  # each step had a round of the one that was decoding
    board.close()


@pytest.mark.parametrize("kind", ["lookup", "pair", "openvino", "bitwise"])
def test_a_piece_is_read_in_the_pass_of_those_who_decode(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, passes = engine(kind), []
    forward = made.target.forward

    def seen(feeds: Any, taps: Any = ()) -> Any:
        passes.append([feed.num_rows for feed in feeds])
        return forward(feeds, taps)

    board = scheduler(made)
    decoding = board.add(make_course(made, [5, 9], {"max_new_tokens": 20, "budget": 0}))
    board.step()
    monkeypatch.setattr(made.target, "forward", seen)
    long = board.add(make_course(made, [3] * 50, {"max_new_tokens": 4, "budget": 0}))
    while board.busy:
        board.step()
    assert passes[:4] == [[1, 16]] * 3 + [[1, 2]]
    assert [ticket.course.request.tally.seconds["target"] > 0.0 for ticket in (decoding, long)] == [True, True]
    texts = [ticket.course.result().token_ids for ticket in (decoding, long)]
    assert texts == [
        made.generate(prompt, max_new_tokens=count, budget=0).token_ids
        for prompt, count in (([5, 9], 20), ([3] * 50, 4))
    ]


def test_short_prompts_that_keep_coming_do_not_starve_a_long_one() -> None:
    made = engine("lookup")
    board = scheduler(made)
    long = board.add(make_course(made, [3] * 100, {"max_new_tokens": 1}))
    for _ in range(14):  # 7 pieces, every other step
        board.add(make_course(made, [5] * 16, {"max_new_tokens": 1}))
        board.step()
    assert long.course.request.finish_reason == "length"
    board.close()


def test_rests_of_prompts_that_a_round_reads_are_no_more_than_a_piece() -> None:
    made = engine("lookup")
    board = scheduler(made)
    for _ in range(6):
        board.add(make_course(made, [7] * 7, {"max_new_tokens": 30}))
    decoding = []
    for _ in range(3):
        board.step()
        decoding.append(sum(not ticket.reading for ticket in board.running))
    assert decoding == [2, 4, 6]
    board.close()


def test_places_are_given_in_the_order_of_arrival() -> None:
    made = engine("lookup")
    board = scheduler(made, max_batch=2)
    tickets = [board.add(make_course(made, PROMPTS[n % 3], {"max_new_tokens": 5, "budget": 0})) for n in range(5)]
    order: list[Ticket] = []
    while board.busy:
        for ticket, _ in board.step():
            if ticket not in order:
                order.append(ticket)
        assert len(board.running) <= 2
    assert order == tickets


def test_a_full_queue_refuses_with_the_numbers() -> None:
    made = engine("lookup")
    board = scheduler(made, max_batch=1, queue=2)
    for _ in range(3):
        board.add(make_course(made, [5], {"max_new_tokens": 3}), queue=2)
    with pytest.raises(QueueFullError, match=r"3 requests are there: 1 may run at once, and 2 may wait"):
        board.add(make_course(made, [5], {"max_new_tokens": 3}), queue=2)
    board.step()
    while len(board.waiting) > 1:
        board.step()
    board.add(make_course(made, [5], {"max_new_tokens": 3}), queue=2)
    board.close()


def test_cancelled_requests_are_gone_before_the_next_step() -> None:
    made = engine("pair")
    board = scheduler(made)
    tickets = [board.add(make_course(made, PROMPTS[n % 6], {"max_new_tokens": 50, "budget": 4})) for n in range(100)]
    for _ in range(5):
        board.step()
    assert len(board.running) == 32
    for ticket in tickets[1:]:
        board.cancel(ticket)
    assert board.running == [tickets[0]]
    assert cells(made) == tickets[0].used
    assert len(made.drafter.model.cache._used) < 60  # type: ignore[union-attr]
    tokens = [*tickets[0].course.request.output, *run(board, tickets[0])]
    assert tokens == plain(made.target.model, PROMPTS[0], 50)  # type: ignore[attr-defined]
    board.cancel(tickets[0])  # it is over
    assert cells(made) == 0


# --- memory -----------------------------------------------------------------------------------------------------------


def limited(made: dg.Engine, number: int, **options: Any) -> Scheduler:
    """With memory for so many cells."""
    board = scheduler(made, memory=number * cell_bytes(made.target, made.drafter), **options)
    assert board.cells_limit == number
    return board


def test_the_stated_memory_is_never_exceeded_and_everybody_comes_to_an_end() -> None:
    made = engine("pair")
    board = limited(made, 130)
    wanted = [(n % 4, 0, 0.0, None, 40) for n in range(12)]
    tickets = [board.add(make_course(made, PROMPTS[act[0]], asked(*act[1:]) | {"budget": 6})) for act in wanted]
    most = steps = 0
    peak: list[int] = []
    hook = made.target.model.register_forward_hook(lambda *_: peak.append(cells(made)))  # type: ignore[attr-defined]
    while board.busy:
        for _, outcome in board.step():
            assert isinstance(outcome, Event), outcome
        most, steps = max(most, len(board.running)), steps + 1
        assert steps < 2000
    hook.remove()
    assert 70 < max(peak) <= 130
    assert most >= 2
    for ticket, act in zip(tickets, wanted, strict=True):
        assert ticket.course.result().token_ids == alone("pair", *act).token_ids


@settings(max_examples=8)
@given(plays, st.integers(160, 330))
def test_with_little_memory_nobody_waits_for_ever(play: list[Any], number: int) -> None:
    made = engine("pair")
    check_play("pair", play, memory=number * cell_bytes(made.target, made.drafter))


def test_what_can_never_fit_is_refused_before_the_first_token() -> None:
    made = engine("pair")
    board = limited(made, 40)
    with pytest.raises(OptionError, match=r"may grow to 49 cells \(a prompt of 3 tokens, 40 new ones, 6 drafted\)"):
        board.add(make_course(made, [5, 9, 5], {"max_new_tokens": 40, "budget": 6}))
    with pytest.raises(OptionError, match="write a smaller max_new_tokens"):
        board.add(make_course(made, [5, 9, 5], {"max_new_tokens": 40, "budget": 6}))
    with pytest.raises(OptionError, match="write a smaller budget"):
        board.add(make_course(made, [5, 9, 5], {"max_new_tokens": 2, "budget": 99}))
    assert not board.busy
    board.add(make_course(made, [5, 9, 5], {"max_new_tokens": 31, "budget": 6}))
    assert board.step()
    board.close()


def test_load_tells_cells_and_requests() -> None:
    made = engine("lookup")
    board = limited(made, 500, max_batch=2)
    for _ in range(3):
        board.add(make_course(made, [5, 9, 5, 7], {"max_new_tokens": 9, "budget": 0}))
    assert (board.load.running, board.load.waiting, board.load.cells_used, board.load.cells_limit) == (0, 3, 0, 500)
    board.step()
    assert (board.load.running, board.load.waiting, board.load.cells_used) == (2, 1, 8)
    board.close()
    assert (board.load.running, board.load.waiting, board.load.cells_used) == (0, 0, 0)
    assert cells(made) == 0
    assert board.load.cell_bytes == made.target.cell_bytes > 0


# --- one that fails ---------------------------------------------------------------------------------------------------


def failing_after(calls: int) -> Any:
    told: list[int] = []

    def stop(token: int, *_: Any) -> bool:
        told.append(token)
        if len(told) > calls:
            raise ValueError("enough")
        return False

    return stop


@pytest.mark.parametrize("calls", [0, 4])
def test_one_failing_request_ends_alone(calls: int) -> None:
    made = engine("pair")
    right = [plain(made.target.model, prompt, 20) for prompt in PROMPTS[:3]]  # type: ignore[attr-defined]
    params = [{"max_new_tokens": 20, "stop_when": failing_after(calls) if n == 1 else None} for n in range(3)]
    with pytest.raises(ValueError, match="enough") as raised:
        made.generate(PROMPTS[:3], params)
    error: Any = raised.value
    assert error.partial.token_ids == right[1][: calls + 1]
    assert [result.token_ids for result in error.finished] == right[:1]
    assert [result.finish_reason for result in error.results] == ["length", None, "length"]
    assert [error.results[n].token_ids for n in (0, 2)] == [right[0], right[2]]
    assert cells(made) == 0


def test_an_interrupt_ends_all_and_loses_nothing() -> None:
    made = engine("pair")
    right = [plain(made.target.model, prompt, 20) for prompt in PROMPTS[:3]]  # type: ignore[attr-defined]
    calls: list[int] = []

    def interrupt(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt

    hook = made.target.model.register_forward_hook(interrupt)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt) as raised:
        made.generate(PROMPTS[:3], [{"max_new_tokens": n, "budget": 0} for n in (3, 20, 20)])
    hook.remove()
    error: Any = raised.value
    assert [result.finish_reason for result in error.results] == ["length", None, None]
    assert error.partial is error.results[1]
    assert [result.token_ids for result in error.finished] == [right[0][:3]]
    for result, tokens in zip(error.results, right, strict=True):
        assert result.token_ids
        assert result.token_ids == tokens[: len(result.token_ids)]
    assert cells(made) == 0


def test_rows_of_one_request_that_are_no_numbers_hurt_nobody_else() -> None:
    """A forward that fails as a whole is repeated request by request."""
    made = engine("lookup")

    def spoil(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        if 63 in kwargs["input_ids"]:
            output.logits = output.logits * float("nan")
        return output

    hook = made.target.model.register_forward_hook(spoil, with_kwargs=True)  # type: ignore[attr-defined]
    with pytest.raises(LogitsError) as raised:
        made.generate([[5, 9, 5], [63, 63], [7, 3]], max_new_tokens=5, logit_bias={63: -100.0}, budget=0)
    hook.remove()
    assert [len(result.token_ids) for result in raised.value.results] == [5, 0, 5]
    assert cells(made) == 0


class Blind(dg.Drafter):
    """A drafter that cannot read the prompt of 11s."""

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        return dg.Draft(dg.DraftGraph())

    def read(self, request: Any, taps: Any, path: Any) -> None:
        if request.tokens[0] == 11:
            raise ValueError("too dark")


@pytest.mark.parametrize("fault", ["rows", "drafter"])
def test_a_piece_that_fails_ends_its_request_alone(fault: str) -> None:
    made = dg.Engine.from_pretrained(tiny_lm(), drafter=Blind(), budget=4)
    made.target.most_rows = 16
    token = 63 if fault == "rows" else 11

    def spoil(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        if 63 in kwargs["input_ids"]:
            output.logits = output.logits * float("nan")
        return output

    hook = made.target.model.register_forward_hook(spoil, with_kwargs=True)  # type: ignore[attr-defined]
    board = scheduler(made)
    others = [board.add(make_course(made, prompt, {"max_new_tokens": 6})) for prompt in ([5, 9, 5], [3] * 40)]
    board.step()
    bad = board.add(make_course(made, [token] * 40, {"max_new_tokens": 6}))
    outcomes = []
    while board.busy:
        outcomes += board.step()
    hook.remove()
    failed = [(ticket, error) for ticket, error in outcomes if isinstance(error, Exception)]
    assert [ticket for ticket, _ in failed] == [bad]
    assert isinstance(failed[0][1], LogitsError if fault == "rows" else DraftgraphError)
    texts = [ticket.course.result().token_ids for ticket in others]
    assert texts == [plain(made.target.model, prompt, 6) for prompt in ([5, 9, 5], [3] * 40)]  # type: ignore[attr-defined]
    assert cells(made) == 0
    board.close()


class Stubborn(dg.Drafter):
    """A drafter that cannot let go of the prompt [11]."""

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        return dg.Draft(dg.DraftGraph())

    def end(self, request: Any) -> None:
        if request.tokens[0] == 11:
            raise ValueError("no end")


def test_a_drafter_that_fails_to_end_one_request_keeps_no_cells() -> None:
    made = dg.Engine.from_pretrained(tiny_lm(), drafter=Stubborn(), budget=4)
    with pytest.raises(DraftgraphError, match="no end") as raised:
        made.generate([[11], [5, 9, 5]], max_new_tokens=5)
    assert [len(result.token_ids) for result in raised.value.results] == [5, 5]
    board = scheduler(made)
    board.add(make_course(made, [11], {"max_new_tokens": 9}))
    board.add(make_course(made, [5], {"max_new_tokens": 9}))
    board.step()
    with pytest.raises(DraftgraphError, match="no end"):
        board.close()
    assert not board.busy
    assert cells(made) == 0


class Failing(dg.structures.Chain):
    """A structure that fails to say what its third round may spend."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "asked", [])

    def limits(self, budget: int, depth: int | None, reach: int) -> Any:
        self.asked.append(1)  # type: ignore[attr-defined]
        if len(self.asked) == 3:  # type: ignore[attr-defined]
            raise ValueError("no limits")
        return super().limits(budget, depth, reach)


def test_a_structure_that_fails_between_rounds_hurts_nobody_else() -> None:
    made = engine("pair")
    params = [{"max_new_tokens": 20, "budget": 3}, {"max_new_tokens": 20, "budget": 3, "structure": Failing()}]
    with pytest.raises(ValueError, match="no limits") as raised:
        made.generate(PROMPTS[:2], params)
    results = raised.value.results  # type: ignore[attr-defined]
    assert results[0].token_ids == plain(made.target.model, PROMPTS[0], 20)  # type: ignore[attr-defined]
    assert 0 < len(results[1].token_ids) < 20
    assert cells(made) == 0


def test_a_batch_keeps_its_order_and_its_stops() -> None:
    tokenizer = byte_tokenizer()
    made = dg.Engine.from_pretrained(tiny_lm(vocab=256), tokenizer=tokenizer, budget=0)
    prompts = ["abc", "xyz", "q", "abc"]
    one_by_one = [made.generate(prompt, max_new_tokens=30, stop=("e",)) for prompt in prompts]
    together = made.generate(prompts, max_new_tokens=30, stop=("e",))
    told = [(result.text, result.token_ids, result.finish_reason) for result in together]
    assert told == [(result.text, result.token_ids, result.finish_reason) for result in one_by_one]


def test_many_small_requests_leave_no_memory_behind() -> None:
    made = engine("lookup")
    board = scheduler(made, max_batch=8)
    for number in range(300):
        board.add(make_course(made, PROMPTS[number % 4], {"max_new_tokens": 3}))
        board.step()
    while board.busy:
        board.step()
    gc.collect()  # what earlier tests have left in circles
    pool = made.target.cache  # type: ignore[attr-defined]
    assert cells(made) == 0
    assert pool.capacity <= 1024
    assert len(pool.handles) <= 1
    assert not board._turns
