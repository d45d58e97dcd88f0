"""Turns: who runs when, and what is left of a turn that fails or is interrupted. Nothing here is timed."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import dataclass, field

import pytest

import draftgraph as dg
from draftgraph.lab.turns import Answer, Timed, answer_of, order, share_of_core, take_turns
from models import perturbed, tiny_lm


@dataclass
class Recorder:
    """Answers with its prompt, writes down its calls, and fails at those named."""

    name: str
    calls: list[tuple[str, int, int]]
    fails: dict[int, BaseException] = field(default_factory=dict)
    count: int = 0

    def answer(self, prompt, seed):
        self.count += 1
        if self.count in self.fails:
            raise self.fails[self.count]
        self.calls.append((self.name, prompt[0], seed))
        return Answer(list(prompt), 1, 0)


PROMPTS = [[10], [20]]


def test_everybody_runs_once_per_turn_after_a_warm_up_in_rotating_order():
    calls: list[tuple[str, int, int]] = []
    heard: list[str] = []
    turns = list(take_turns([Recorder(name, calls) for name in "abc"], PROMPTS, 4, tell=heard.append))
    names = "".join(name for name, _, _ in calls)
    assert names == "abc" + "abc" + "cba" + "bca" + "acb"
    assert heard == list(names)
    assert [(turn.prompt, turn.repeat) for turn in turns] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [prompt for _, prompt, _ in calls[3:]] == [10] * 3 + [20] * 3 + [10] * 3 + [20] * 3
    seeds = [seed for _, _, seed in calls[3:]]
    assert len(set(seeds)) == 4, "everybody has the same seed in a turn, and another one in the next"
    for turn in turns:
        assert list(turn.timed) == ["a", "b", "c"]
        assert sorted(timed.place for timed in turn.timed.values()) == [0, 1, 2]
        assert all(timed.seconds > 0 for timed in turn.timed.values())


def test_later_turns_go_on_where_earlier_ones_ended():
    together: list[tuple[str, int, int]] = []
    apart: list[tuple[str, int, int]] = []
    list(take_turns([Recorder(name, together) for name in "ab"], PROMPTS, 5))
    for first, count in ((0, 2), (2, 3)):
        list(take_turns([Recorder(name, apart) for name in "ab"], PROMPTS, count, first=first))
    assert apart == together


def test_turns_go_on_until_the_time_is_over():
    turns = take_turns([Recorder("a", [])], PROMPTS, 1, seconds=3600.0)
    assert [next(turns).prompt for _ in range(3)] == [0, 1, 0]
    assert len(list(take_turns([Recorder("a", [])], PROMPTS, 2, seconds=0.0))) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_everybody_runs_equally_often_at_every_place(count):
    places = [[one.name for one in order([Recorder(str(i), []) for i in range(count)], t)] for t in range(2 * count)]
    for place in zip(*places, strict=True):
        assert Counter(place) == {str(i): 2 for i in range(count)}


def test_who_fails_drops_out_and_the_others_go_on():
    calls: list[tuple[str, int, int]] = []
    late, early = RuntimeError("late"), RuntimeError("early")
    contenders = [Recorder("a", calls), Recorder("late", calls, {3: late}), Recorder("early", calls, {1: early})]
    turns = list(take_turns(contenders, PROMPTS, 4, forgive=lambda one: one.name != "a"))
    assert [list(turn.timed) for turn in turns] == [["a", "late"], ["a"], ["a"], ["a"]]
    assert [dict(turn.failed) for turn in turns] == [{"early": early}, {"late": late}, {}, {}]


def test_who_must_not_fail_ends_it():
    with pytest.raises(RuntimeError, match="late"):
        list(take_turns([Recorder("a", [], {2: RuntimeError("late")})], PROMPTS, 2))


def test_an_interruption_leaves_whole_turns_and_the_collector_on():
    turns = take_turns([Recorder("a", []), Recorder("b", [], {3: KeyboardInterrupt()})], PROMPTS, 2)
    seen = [next(turns)]
    with pytest.raises(KeyboardInterrupt):
        next(turns)
    assert [list(turn.timed) for turn in seen] == [["a", "b"]]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_thread_that_had_to_wait_for_its_core():
    answer = Answer([1, 2], 1, 0)
    assert share_of_core([Timed(0, 1.0, 1.0, answer), Timed(1, 3.0, 1.0, answer)]) == pytest.approx(0.5)
    assert Timed(0, 3.0, 1.0, answer).pace == 1.5


def test_an_engine_answers_with_its_counts():
    target = tiny_lm()
    engine = dg.Engine.from_pretrained(target, draft_model=perturbed(target), budget=3)
    params = dg.SamplingParams(max_new_tokens=6, temperature=1.0, ignore_eos=True)
    first, again, other = (answer_of(engine, [1, 2], params, seed) for seed in (1, 1, 2))
    assert first.ids == again.ids != other.ids
    assert len(first.ids) == 6
    assert (first.rounds, first.nodes) == (again.rounds, again.nodes)
    assert first.parts["target"] > 0
