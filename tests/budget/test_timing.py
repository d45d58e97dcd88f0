"""How long a user waits for the table of costs: counted in passes of models whose clock is made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from draftgraph.backends.base import CacheHandle, Feed
from draftgraph.budget import pass_times, timing
from draftgraph.budget.costs import Costs
from draftgraph.request.record import RoundRecord

CPU = torch.device("cpu")
DOZEN = 12
PARTS = {"target": 1.0, "drafter": 0.5, "accept": 0.002, "draft": 0.001}
"""Seconds of a made-up round: outside the forwards it takes 3 ms."""


@dataclass
class Clock:
    """A clock that moves when a model runs. away  share of that time in which the processor does something else."""

    now: float = 0.0
    away: float = 0.0

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.now * (1.0 - self.away)

    process_time = thread_time


@dataclass
class SlowModel:
    """A model whose passes take `seconds`, a tenth of that per further row, and `change` more if the last one had other rows.

    reading  seconds that every row takes more per token of text before it.
    path, path_reading  seconds more per path beside the first one, and per token of text before it.
    """

    clock: Clock
    seconds: float
    context_window: int | None = 512
    vocab_size: int = 16
    most_rows: int = 512
    sizes: Sequence[int] = ()
    switch: int | None = None
    numerics: str = "exact"
    device: torch.device = CPU
    change: float = 0.0
    reading: float = 0.0
    path: float = 0.0
    path_reading: float = 0.0
    length: int = 0
    rows: list[int] = field(default_factory=list)
    parents: list[list[int]] = field(default_factory=list)

    def open(self, capacity: int) -> CacheHandle:
        self.length = 0
        return CacheHandle()

    def expect(self, text: CacheHandle, length: int) -> None:
        pass

    def forward(self, batch: Sequence[Feed], taps: Sequence[str] = ()) -> list[torch.Tensor]:
        [feed] = batch
        self.rows.append(len(feed.committed) + len(feed.tokens))
        self.parents.append([*feed.parents])
        changed = len(self.rows) > 1 and self.rows[-1] != self.rows[-2]
        self.clock.now += self.seconds * (1.0 + 0.1 * (self.rows[-1] - 1)) + self.change * changed
        self.clock.now += self.reading * self.rows[-1] * self.length
        more = len(set(range(len(feed.tokens))) - set(feed.parents)) - 1 if feed.tokens else 0
        self.clock.now += (self.path + self.path_reading * self.length) * more
        self.length += len(feed.committed)
        return [torch.empty(0)]

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        pass

    def close(self, text: CacheHandle) -> None:
        pass


@dataclass
class Rounds:
    """What decoding says: a token a round, and of every draft of two nodes the first is accepted."""

    model: SlowModel
    asked: list[tuple[int, int, float]] = field(default_factory=list)

    def __call__(self, budget: int, prompt: Sequence[int], tokens: int, temperature: float) -> list[RoundRecord]:
        self.asked.append((budget, tokens, temperature))
        nodes, path = ([0, 1], (0,)) if budget else ([], ())
        self.model.rows += [1 + len(nodes)] * tokens
        self.model.clock.now += self.model.seconds * tokens
        return [
            RoundRecord(
                9 + i, nodes, [-1, 0][: len(nodes)], [False] * len(nodes), ["drafter"] * len(nodes),
                [0.5, 0.25][: len(nodes)], [None] * len(nodes), path, 7, 1 + len(path), len(nodes), len(nodes), dict(PARTS),
            )
            for i in range(tokens)
        ]  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    told = SimpleNamespace(
        perf_counter=clock.perf_counter, thread_time=clock.thread_time, process_time=clock.process_time
    )
    for module in (timing, pass_times):
        monkeypatch.setattr(module, "time", told)
    return clock


def measured(
    clock: Clock, target: float, drafter: float | None = None, **how: int | None
) -> tuple[Costs, SlowModel, Rounds]:
    model = SlowModel(clock, target, **how)
    rounds = Rounds(model)
    return timing.measure(model, None if drafter is None else SlowModel(clock, drafter), rounds), model, rounds


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.1, 0.19, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("drafter", [None, 0.1])
def test_a_slow_model_runs_a_dozen_passes_or_for_about_a_second(
    clock: Clock, seconds: float, drafter: float | None
) -> None:
    costs, model, _ = measured(clock, seconds, None if drafter is None else drafter * seconds)
    assert len(model.rows) <= DOZEN + 1 or clock.now < 2.5
    assert clock.now < 60.0
    assert set(costs.target.rows) >= (set(timing.NEEDED) if seconds <= 1.0 else {1, 2, 4})
    assert costs.target(4) == pytest.approx(1.3 * seconds)


def test_a_very_slow_model_is_not_waited_for_any_longer(clock: Clock) -> None:
    costs, model, rounds = measured(clock, 12.0)
    assert costs.target.rows == [1, 2]
    assert len(model.rows) == 3
    assert not rounds.asked, "beside such passes nothing else matters"


def test_a_fast_model_is_timed_again_and_again(clock: Clock) -> None:
    costs, _, rounds = measured(clock, 0.004, 0.0005)
    assert set(costs.target.rows) == {*timing.NEEDED, *timing.WANTED}
    often = [count >= 3 for count in costs.target.repeats]
    assert often == [rows <= pass_times.WIDE for rows in costs.target.rows], "wide passes disturb those behind them"
    assert costs.drafter is not None
    assert costs.drafter.repeats[0] >= 3
    assert clock.now < 3.0
    assert [level.reached for level in costs.levels] == [1.0, 0.0]
    assert costs.greedy is not None
    assert {temperature for _, _, temperature in rounds.asked} == {0.0, 1.0}


def test_no_model_is_timed_for_more_than_its_passes_at_most(clock: Clock) -> None:
    costs, _, _ = measured(clock, 1e-6)
    assert max(costs.target.repeats) <= 2 * pass_times.REPEATS, "one row is timed twice a turn"


@pytest.mark.parametrize("seconds", [0.004, 0.05])
def test_what_a_round_takes_beside_its_passes_is_known_however_few_were_run(clock: Clock, seconds: float) -> None:
    costs, _, _ = measured(clock, seconds, seconds / 10)
    assert costs.plain_overhead == pytest.approx(3e-3)
    assert costs.verifying(2) + 2 * costs.overhead[1] == pytest.approx(1.2 * seconds + 3e-3)


def test_a_second_model_gets_its_turn_where_the_first_takes_all_the_time(clock: Clock) -> None:
    costs, _, _ = measured(clock, 1.0, 0.5)
    assert costs.drafter is not None
    assert list(costs.drafter.rows) == sorted(timing.DRAFTER_NEEDED)


def test_tokens_of_chains_may_take_less_of_a_drafter_than_passes_by_themselves(clock: Clock) -> None:
    model = SlowModel(clock, 0.004)

    class Together(Rounds):
        def __call__(self, *asked: Any) -> list[RoundRecord]:
            rounds = super().__call__(*asked)
            return [replace(each, seconds={**each.seconds, "drafter": 1e-3 * each.num_passes}) for each in rounds]

    table = timing.measure(model, SlowModel(clock, 0.002), Rounds(model), run_chains=Together(model))
    assert table.chains is not None
    assert table.chains.drafting == pytest.approx(0.5)
    assert table.of_chains is not None
    assert table.of_chains.drafter_pass(1) == pytest.approx(1e-3 + table.chains.overhead[1])
    assert table.drafter_pass(1) == pytest.approx(2e-3 + table.overhead[1])
    assert table.greedy_chains is not None
    assert table.greedy_chains.drafting == pytest.approx(0.5)


def test_sizes_that_passes_are_padded_to_are_timed_in_rising_order_once_they_have_settled(clock: Clock) -> None:
    costs, model, _ = measured(clock, 0.004, sizes=(1, 2, 4, 8, 24))
    assert model.rows[1:25] == [rows for size in (1, 2, 4, 8, 24, 25, 33, 65) for rows in [size] * 3]
    assert model.rows[25:31] == [1, 24] * 3, "changes, in case that there is no second turn"
    assert costs.target.sizes == (1, 2, 4, 8, 24)
    assert costs.target(5) == costs.target(8) == pytest.approx(0.004 * 1.7)
    assert costs.target(4.5) == pytest.approx(0.004 * 1.5), "half way between the passes for four and for five rows"
    assert costs.target(30) > costs.target(24)


@pytest.mark.parametrize("seconds", [0.004, 0.03])
def test_a_change_of_size_is_timed_apart(clock: Clock, seconds: float) -> None:
    costs, _, _ = measured(clock, seconds, sizes=(2, 4, 8, 24), change=0.003)
    assert costs.target.change == pytest.approx(0.003)
    assert costs.target(1) == costs.target(2) == pytest.approx(1.1 * seconds)
    assert costs.target(8) == pytest.approx(1.7 * seconds), "no part of what a pass of this size costs"


@dataclass
class Disturbed(SlowModel):
    """Three of ten passes take twice as long."""

    def forward(self, batch: Sequence[Feed], taps: Sequence[str] = ()) -> list[torch.Tensor]:
        if len(self.rows) * 7919 % 101 % 10 < 3:
            self.clock.now += self.seconds
        return super().forward(batch, taps)


def test_a_change_of_size_is_known_where_passes_are_disturbed(clock: Clock) -> None:
    """Of SmolLM2, whose change takes 5 ms of 40, a loaded machine had said that it takes nothing."""
    model = Disturbed(clock, 0.04, sizes=(1, 2, 4, 8, 24), change=0.005)
    assert timing.measure(model, None, Rounds(model)).target.change == pytest.approx(0.005)


def test_all_sizes_of_a_model_of_medium_speed_have_several_turns(clock: Clock) -> None:
    costs, _, _ = measured(clock, 0.02, sizes=(1, 2, 4, 8, 24))
    assert min(costs.target.repeats[:4]) >= 2 * pass_times.FEWEST_TURNS


@pytest.mark.parametrize(("seconds", "window", "known"), [(0.004, 1024, True), (0.004, 512, False), (0.3, 1024, False)])
def test_what_a_row_takes_to_read_a_text_is_timed_behind_a_long_one(
    clock: Clock, seconds: float, window: int, known: bool
) -> None:
    costs, _, _ = measured(clock, seconds, context_window=window, reading=1e-6)
    assert costs.target.reading == pytest.approx(1e-6 if known else 0.0)


@pytest.mark.parametrize(
    ("seconds", "window", "known", "further"),
    [(0.004, 1024, True, True), (0.004, 512, True, False), (0.3, 1024, False, False)],
)
def test_a_path_that_is_a_sequence_of_its_own_is_timed_apart(
    clock: Clock, seconds: float, window: int, known: bool, further: bool
) -> None:
    model = SlowModel(clock, seconds, context_window=window, path=0.001, path_reading=1e-5)
    costs = timing.measure(model, None, Rounds(model), paths=True)
    target = costs.target
    near = 0.001 + 1e-5 * (timing.CONTEXT + 1)
    assert target.path == pytest.approx(near if known else 0.0)
    assert target.path_reading == pytest.approx(1e-5 if further else 0.0)
    assert target(8) == pytest.approx(1.7 * seconds), "rows are timed as those of one path"
    assert timing.measure(model, None, Rounds(model)).target.path == 0.0


def test_a_slow_model_with_sizes_is_timed_once_each(clock: Clock) -> None:
    costs, model, _ = measured(clock, 0.3, sizes=(1, 2, 4, 8, 24))
    assert model.rows[1:6] == [1, 2, 4, 8, 24]
    assert set(costs.target.rows) == {1, 2, 4, 8, 24}


def test_what_is_needed_is_timed_after_smaller_sizes_that_are_not(clock: Clock) -> None:
    """On a loaded machine a drafter was timed with one size alone: such a table cannot be read again."""
    target, drafter = (SlowModel(clock, 1.0, sizes=(1, 2, 4, 8, 24)) for _ in range(2))
    costs = timing.measure(target, drafter, Rounds(target))
    assert costs.drafter is not None
    assert {*timing.DRAFTER_NEEDED} <= {*costs.drafter.rows}
    assert Costs.from_dict(json.loads(json.dumps(costs.to_dict())), "read again").drafter is not None


@pytest.mark.parametrize("chains", [False, True])
def test_the_target_is_timed_with_rows_that_part_as_drafts_do(clock: Clock, chains: bool) -> None:
    model, drafter = SlowModel(clock, 1.0), SlowModel(clock, 0.1)
    timing.measure(model, drafter, Rounds(model), chains)
    last = max(model.parents, key=len)
    assert last == ([*range(-1, len(last) - 1)] if chains else [-1] * len(last))
    assert {parent for parents in drafter.parents for parent in parents} == {-1}


def test_chains_are_counted_apart_where_drafts_may_be_chains(clock: Clock) -> None:
    model = SlowModel(clock, 0.004)
    graphs, chains = Rounds(model), Rounds(model)
    table = timing.measure(model, SlowModel(clock, 0.001), graphs, run_chains=chains)
    assert table.chains == table.greedy_chains == table.greedy
    assert {budget for budget, _, _ in chains.asked} == {timing.FEW, timing.FULL_CHAIN}
    assert {temperature for _, _, temperature in chains.asked} == {0.0, 1.0}
    assert timing.measure(model, SlowModel(clock, 0.001), graphs).chains is None


@pytest.mark.parametrize("window", [8, 16, 64, 100, None])
def test_no_pass_leaves_the_window(clock: Clock, window: int | None) -> None:
    _, model, rounds = measured(clock, 0.004, context_window=window)
    if window is not None:
        assert max(model.rows) <= window - max(1, min(timing.CONTEXT, window // 4))
        assert all(tokens < window for _, tokens, _ in rounds.asked)


@pytest.mark.parametrize(("away", "busy"), [(0.0, False), (0.1, False), (0.5, True)])
def test_a_processor_that_was_away_is_noticed_even_if_every_size_was_timed_once(
    clock: Clock, away: float, busy: bool
) -> None:
    clock.away = away
    costs, _, _ = measured(clock, 1.0)
    assert costs.waited == pytest.approx(away)
    assert costs.busy == busy
    assert costs.target(1) == pytest.approx(1.0 - away), "what others had does not count"


@dataclass
class Beginners(Rounds):
    """The first draft of all takes a second more."""

    def __call__(self, budget: int, prompt: Sequence[int], tokens: int, temperature: float) -> list[RoundRecord]:
        first = budget > 0 and not any(asked for asked, _, _ in self.asked)
        rounds = super().__call__(budget, prompt, tokens, temperature)
        for record in rounds:
            record.seconds["draft"] += float(first)
        return rounds


@pytest.mark.parametrize("seconds", [0.004, 0.03, 0.09])
def test_what_is_built_at_a_first_use_is_no_part_of_a_round(clock: Clock, seconds: float) -> None:
    model, drafter = SlowModel(clock, seconds), SlowModel(clock, 0.1 * seconds)
    costs, expected = (timing.measure(model, drafter, rounds(model)) for rounds in (Beginners, Rounds))
    assert costs.overhead == pytest.approx(expected.overhead)


def test_an_accelerator_may_be_waited_for(clock: Clock) -> None:
    clock.away = 0.9
    model = SlowModel(clock, 0.5, device=torch.device("meta"))
    costs = timing.measure(model, None, Rounds(model))
    assert not costs.busy
    assert costs.target(1) == pytest.approx(0.5)
