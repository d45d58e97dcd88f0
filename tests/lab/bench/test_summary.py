"""The arithmetic of the report: paired ratios, intervals, counts."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.lab.bench.contenders import PLAIN
from draftgraph.lab.bench.summary import ENOUGH, Ratio, Run, paired_ratio, summarise

POSITIVE = st.floats(1e-3, 1e3)
GROUPS = st.lists(st.lists(POSITIVE, min_size=1, max_size=3), min_size=1, max_size=8)


def run(contender: str, prompt: int, seconds: float, repeat: int = 0, temperature: float = 0.0, **other) -> Run:
    values = {"place": 0, "on_core": seconds / 2, "tokens": 10, "rounds": 5, "nodes": 15, "same": temperature == 0}
    return Run(temperature, contender, prompt, repeat, seconds=seconds, **(values | other))


@given(GROUPS)
def test_an_interval_holds_its_median_and_stays_within_what_was_seen(groups):
    ratio = paired_ratio(groups)
    medians = [statistics.median(group) for group in groups]
    assert min(medians) <= ratio.low <= ratio.median <= ratio.high <= max(medians)
    assert ratio.median == pytest.approx(statistics.median(medians))
    every = [value for group in groups for value in group]
    assert min(every) <= ratio.p10 <= ratio.p90 <= max(every)


@given(GROUPS, st.sampled_from([0.25, 2.0, 8.0]))
def test_an_interval_scales_with_its_ratios(groups, factor):
    once, scaled = paired_ratio(groups), paired_ratio([[factor * value for value in group] for group in groups])
    assert scaled.low == pytest.approx(factor * once.low)
    assert scaled.high == pytest.approx(factor * once.high)


@given(GROUPS)
def test_turns_of_a_prompt_are_no_further_evidence(groups):
    once, twice = paired_ratio(groups), paired_ratio([[*group, *group] for group in groups])
    assert (once.median, once.low, once.high) == pytest.approx((twice.median, twice.low, twice.high))


@given(st.lists(POSITIVE, min_size=1, max_size=8), st.floats(0.1, 10))
def test_a_constant_advantage_is_found_on_a_machine_whose_speed_changes(paces, advantage):
    runs = [
        run(name, i, pace / factor) for i, pace in enumerate(paces) for name, factor in ((PLAIN, 1.0), ("x", advantage))
    ]
    row = next(row for row in summarise(runs, ["t"] * len(paces)) if row.contender == "x")
    ratio = row.ratio
    assert (ratio.low, ratio.median, ratio.high, ratio.p10, ratio.p90) == pytest.approx((advantage,) * 5)


def test_more_prompts_narrow_the_interval():
    few, many = ([[1.0 + i % 5] for i in range(n)] for n in (10, 200))
    assert paired_ratio(many).high - paired_ratio(many).low < paired_ratio(few).high - paired_ratio(few).low


@pytest.mark.parametrize(
    ("low", "high", "prompts", "verdict"),
    [
        (1.1, 1.3, ENOUGH, "wins"),
        (0.9, 1.1, 50, "even"),
        (0.7, 0.9, 50, "loses"),
        (1.0, 1.0, 50, "even"),
        (1.1, 1.3, ENOUGH - 1, "unsure"),
    ],
)
def test_verdicts_need_the_whole_interval_and_enough_prompts(low, high, prompts, verdict):
    assert Ratio((low + high) / 2, low, high, low, high, prompts).verdict == verdict


def test_rows_count_everything_and_split_by_task():
    runs = [
        *(run(PLAIN, i, 1.0, r, tokens=10, rounds=10, nodes=0) for i in range(3) for r in range(2)),
        *(run("x", i, 0.5 if i else 2.0, r, same=(i, r) != (2, 1)) for i in range(3) for r in range(2)),
        *(run(name, 0, 1.0, temperature=1.0, same=None) for name in (PLAIN, "x")),
    ]
    rows = {(row.temperature, row.task, row.contender): row for row in summarise(runs, ["a", "a", "b"])}
    assert list(rows) == [
        (0.0, None, PLAIN), (0.0, None, "x"), (0.0, "a", PLAIN), (0.0, "a", "x"), (0.0, "b", PLAIN), (0.0, "b", "x"),
        (1.0, None, PLAIN), (1.0, None, "x"),
    ]  # fmt: skip
    x = rows[0.0, None, "x"]
    assert (x.runs, x.prompts, x.tokens, x.target_calls, x.nodes, x.same) == (6, 3, 60, 30, 90, 2)
    assert (x.acceptance, x.acceptance_error) == (2.0, 0.0)
    assert x.tokens_per_second == pytest.approx(20.0)
    assert x.ratio.median == pytest.approx(2.0)
    assert rows[0.0, "a", "x"].ratio.median == pytest.approx((0.5 + 2.0) / 2)
    assert rows[0.0, "b", "x"].same == 0
    assert rows[1.0, None, "x"].same is None
    assert rows[0.0, None, PLAIN].ratio == Ratio(1.0, 1.0, 1.0, 1.0, 1.0, 3)


def test_runs_without_their_reference_do_not_count():
    assert summarise([run("x", 0, 1.0)], ["t"]) == []
