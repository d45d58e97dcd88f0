"""The tests keep their error rates, find what they say they find, and estimate what is there."""

from __future__ import annotations

import numpy as np
import pytest

from draftgraph.lab.remote.answers import Answer
from draftgraph.lab.remote.judge import Judged, Sight, expected_tv, judge
from draftgraph.lab.remote.plan import Plan, Way
from draftgraph.lab.remote.selfcheck import made_up, plant, resampled, self_check
from draftgraph.lab.remote.stated import check_stated
from draftgraph.lab.remote.twosample import planted
from draftgraph.lab.remote.views import views_of

SIGHT = Sight(2, True, 8)
DRAW = made_up(prompts=2, samples=250, tokens=2, seed=1)


def judged(seed: int, size: float = 0.0, alpha: float = 0.1, sight: Sight = SIGHT) -> Judged:
    rng = np.random.default_rng(seed)
    drafted, plain = DRAW(rng)
    view = views_of(2, True)[1]
    return judge([plant(each, view, size, rng) for each in drafted], plain, sight, alpha, rng, powered=seed == 0)


def test_honest_ways_are_called_biased_as_seldom_as_alpha_says():
    """At 0.1, of 25 about 2 or 3; more than 8 have probability 1e-3."""
    assert sum(judged(seed).refuted for seed in range(25)) <= 8


def test_a_bias_of_the_stated_size_is_found_as_often_as_stated():
    """Of 20 about 18; fewer than 12 have probability 1e-4. The estimates lie about it."""
    two_alone = Sight(2, True)
    size = judged(0, sight=two_alone).two.seen_at(2)
    assert 0.1 < size < 0.25
    runs = [judged(seed, size, sight=two_alone) for seed in range(1, 21)]
    assert sum(run.refuted for run in runs) >= 12
    views = [run.two.views[1] for run in runs]
    assert 0.6 * size < np.mean([view.tv for view in views]) < 1.3 * size
    assert sum(view.interval[0] <= size <= view.interval[1] for view in views) >= 15


def test_power_that_is_stated_before_is_about_that_after():
    plan = Plan((Way("a"), Way("b")), ("x", "y"), samples=250, tokens=2)
    seen = judged(0, sight=Sight(2, True)).two.seen_at(1)
    assert 0.5 * seen < expected_tv(plan, Sight(2, True), 0.1) < 2.0 * seen


def test_texts_that_never_vary_show_nothing():
    same = [[Answer("a", False, ("a", "b"))] * 50]
    found = judge(same, same, Sight(2, True), 0.01, np.random.default_rng(0))
    assert (found.refuted, found.detectable(2)) == (False, (None, None))
    assert found.two.p_value == 1.0


def test_prompts_without_answers_are_left_out():
    drafted, plain = DRAW(np.random.default_rng(0))
    found = judge([*drafted, []], [*plain, []], SIGHT, 0.01, np.random.default_rng(0), powered=False)
    assert found.two.answers == (500, 500)
    assert not found.refuted
    nothing = judge([[]], [[]], SIGHT, 0.01, np.random.default_rng(0))
    assert (nothing.refuted, nothing.seen_at(1), nothing.seen_by_rank(2)) == (False, None, None)


def test_a_prompt_alone_can_be_the_biased_one():
    rng = np.random.default_rng(0)
    drafted, plain = DRAW(rng)
    view = views_of(2, True)[0]
    found = judge([drafted[0], plant(drafted[1], view, 0.4, rng)], plain, Sight(2, True), 0.01, rng, powered=False)
    assert found.refuted
    assert found.two.prompts[1] < 0.01 < found.two.prompts[0]


@pytest.mark.parametrize("law", [[0.5, 0.3, 0.2], [0.9, 0.1], [0.2] * 5])
def test_a_planted_law_is_as_far_away_as_it_says(law):
    moved = planted(np.array(law), 0.07)
    assert np.abs(moved - law).sum() / 2 == pytest.approx(0.07)
    assert moved.sum() == pytest.approx(1.0)


def test_a_word_that_texts_do_not_follow_is_found_and_its_rank_too():
    """What is stated is one law, what is sampled another: the second token is replaced."""
    rng = np.random.default_rng(0)
    drafted, _ = DRAW(rng)
    hot = [[_cooled(answer) for answer in each] for each in drafted]
    found = check_stated(hot, 2, 8, 1.0, 0.01, rng)
    assert found.refuted
    assert check_stated(hot, 2, 8, 2.0, 0.01, rng).p_value > 0.01, "and it is the law of half the temperature"


def test_probabilities_that_are_more_than_one_together_are_no_error():
    listed = ((("a", 0.0), ("b", 0.0)),) * 1
    texts = [[Answer("a", False, ("a",), (0.0,), listed)] * 150]
    assert check_stated(texts, 1, 2, 1.0, 0.01, np.random.default_rng(0)).refuted


def _cooled(answer: Answer) -> Answer:
    """The same draws, with probabilities as a model would state them that is sampled at temperature 1/2."""
    return Answer(
        answer.text, answer.ended, answer.pieces, tuple(p / 2 - 2.0 for p in answer.logprobs),
        tuple(tuple((text, p / 2 - 2.0) for text, p in listed) for listed in answer.likeliest), None,
    )  # fmt: skip


def test_tokens_behind_an_end_that_is_not_told_are_left_out():
    """Of texts that may end, those that go on are a selection, unless the end is among the tokens."""
    rng = np.random.default_rng(0)
    drafted, _ = DRAW(rng)
    ended = Answer("a", True, drafted[0][0].pieces[:1], drafted[0][0].logprobs[:1], drafted[0][0].likeliest[:1])
    all_tokens = {one.fit.where: one.fit.samples for one in check_stated(drafted, 2, 8, 1.0, 0.01, rng).fits}
    fewer = {
        one.fit.where: one.fit.samples
        for one in check_stated([[ended, *drafted[0]], drafted[1]], 2, 8, 1.0, 0.01, rng).fits
    }
    assert all_tokens["position 2"] == 500
    assert fewer["position 2"] == 250
    assert fewer["position 1"] == 501


def test_the_self_check_tells_finds_and_alarms():
    drafted, plain = DRAW(np.random.default_rng(0))
    population = [[*ours, *theirs] for ours, theirs in zip(drafted, plain, strict=True)]
    found = self_check(resampled(population, 250, 2), SIGHT, 0.1, np.random.default_rng(0), size=0.3, runs=3)
    assert (found.runs, found.found, found.held) == (3, 3, True)
    small = self_check(resampled(population, 250, 2), SIGHT, 0.1, np.random.default_rng(0), size=0.01, runs=2)
    assert not small.held, "a size that it does not say it finds is no check"
