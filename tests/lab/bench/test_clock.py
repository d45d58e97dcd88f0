"""Turns: who runs when, and what is left of a turn that fails or is interrupted."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import dataclass, field

import pytest

from draftgraph.lab.bench.clock import interleave, order
from draftgraph.lab.bench.contenders import Answer


@dataclass
class Prompt:
    ids: list[int]


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


PROMPTS = [Prompt([10]), Prompt([20])]


def test_everybody_runs_once_per_turn_after_a_warm_up_in_rotating_order():
    calls: list[tuple[str, int, int]] = []
    heard: list[str] = []
    turns = list(interleave([Recorder(name, calls) for name in "abc"], PROMPTS, 2, heard.append))
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


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_everybody_runs_equally_often_at_every_place(count):
    places = [[one.name for one in order([Recorder(str(i), []) for i in range(count)], t)] for t in range(2 * count)]
    for place in zip(*places, strict=True):
        assert Counter(place) == {str(i): 2 for i in range(count)}


def test_who_fails_drops_out_and_the_others_go_on():
    calls: list[tuple[str, int, int]] = []
    late, early = RuntimeError("late"), RuntimeError("early")
    field_ = [Recorder("a", calls), Recorder("late", calls, {3: late}), Recorder("early", calls, {1: early})]
    turns = list(interleave(field_, PROMPTS, 2, forgive=lambda one: one.name != "a"))
    assert [list(turn.timed) for turn in turns] == [["a", "late"], ["a"], ["a"], ["a"]]
    assert [dict(turn.failed) for turn in turns] == [{"early": early}, {"late": late}, {}, {}]


def test_who_must_not_fail_ends_it():
    with pytest.raises(RuntimeError, match="late"):
        list(interleave([Recorder("a", [], {2: RuntimeError("late")})], PROMPTS, 1))


def test_an_interruption_leaves_whole_turns_and_the_collector_on():
    field_ = [Recorder("a", []), Recorder("b", [], {3: KeyboardInterrupt()})]
    turns = interleave(field_, PROMPTS, 1, forgive=lambda one: True)
    seen = [next(turns)]
    with pytest.raises(KeyboardInterrupt):
        next(turns)
    assert [list(turn.timed) for turn in seen] == [["a", "b"]]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
