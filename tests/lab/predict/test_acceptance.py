"""The identities, against every draft and every verdict of small models."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.errors import OptionError
from draftgraph.lab.predict import chances
from draftgraph.lab.predict.acceptance import Plan, at_positions, by_text, over_texts, rounds, starts, survival
from draftgraph.lab.predict.estimate import ratio
from draftgraph.lab.predict.rows import PairRows, Span
from draftgraph.types import TokenTree
from draftgraph.verification.published.recursive import RecursiveRule
from draftgraph.verification.registry import get_rule
from draftgraph.verification.walk import WalkRule
from text_tables import best_trees, chains, every_text, expected_length, table, target_rows

ROUND_OFF = 1e-12


def mean_over_texts(rows: PairRows, weights: list[float], plan: Plan, expected: bool) -> float:
    """E_{x~P} of 1 + Σ a_i, by the weights of the texts."""
    found = survival(rows, plan)
    lengths = 1.0 + (found.expected if expected else found.given).sum(dim=1)
    return sum(w * float(lengths[span.begin]) for w, span in zip(weights, rows.spans, strict=True))


@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.parametrize("expected", [False, True])
@given(seed=st.integers(0, 2**20), zeros=st.sampled_from([0.0, 0.4]))
def test_chains_are_expected_to_emit_what_enumeration_says(rule, expected, seed, zeros):
    p, q = table(seed, 3, zeros), table(seed + 1, 3, zeros)
    rows, weights = every_text(p, q, 3, 3)
    predicted = mean_over_texts(rows, weights, Plan(rule, (1, 1, 1)), expected)
    exact = expected_length(get_rule(rule), p, chains(q, 3, (), 3), ())
    assert predicted == pytest.approx(exact, abs=ROUND_OFF)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 1), (2, 1, 2)])
@pytest.mark.parametrize(("rule", "children"), [(WalkRule(), "fixed"), (RecursiveRule(), "hybrid")])
def test_trees_verified_node_by_node_are_expected_to_emit_what_enumeration_says(shape, rule, children):
    p, q = table(7, 4), table(8, 4)
    rows, weights = every_text(p, q, 4, len(shape))
    exact = expected_length(rule, p, best_trees(q, (), shape, hybrid=children == "hybrid"), ())
    for expected in (False, True):
        found = mean_over_texts(rows, weights, Plan(rule.name, shape, children), expected)
        assert found == pytest.approx(exact, abs=ROUND_OFF)


@given(seed=st.integers(0, 2**20), k=st.integers(1, 3))
def test_hybrid_children_verified_at_their_node_are_the_layer_rule_at_depth_one(seed, k):
    p, q = table(seed, 4), table(seed + 1, 4)
    rows, weights = every_text(p, q, 4, 1)
    exact = expected_length(get_rule("layer"), p, best_trees(q, (), (k,), hybrid=True), ())
    assert mean_over_texts(rows, weights, Plan("recursive", (k,), "hybrid"), True) == pytest.approx(
        exact, abs=ROUND_OFF
    )


def recursive_rejection(p: torch.Tensor, q: torch.Tensor, k: int, distinct: bool) -> torch.Tensor:
    """A f64[V] of k children, by enumerating what is drawn and rejected."""
    if k == 0 or float(p.sum()) <= 0:
        return torch.zeros_like(p)
    mass = float(p.sum())
    accepted = torch.minimum(p, mass * q)
    rest = p - accepted
    if not distinct:
        return accepted + recursive_rejection(rest, q, k - 1, False)
    for y in range(len(q)):
        lost = mass * float(q[y]) - float(accepted[y])
        if lost <= 1e-15:
            continue
        without = q.clone()
        without[y] = 0.0
        share = lost / float(rest.sum())
        if float(without.sum()) > 0:
            accepted = accepted + share * recursive_rejection(rest, without / without.sum(), k - 1, True)
    return accepted


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_spine_hands_down_what_enumeration_says(k):
    p, q = table(3, 4), table(4, 4)
    rows, weights = every_text(p, q, 4, 1)
    law = q(())
    best = law.topk(k - 1).indices.tolist()
    drafts = ((float(law[x]), TokenTree([x, *best], [-1] * k, [0, *[-1] * (k - 1)], law[None])) for x in range(4))
    exact = expected_length(RecursiveRule(), p, drafts, ())
    for expected in (False, True):
        found = mean_over_texts(rows, weights, Plan("recursive", (k,), "spine"), expected)
        assert found == pytest.approx(exact, abs=ROUND_OFF)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_draws_with_replacement_hand_down_what_enumeration_says(k):
    rows, _ = every_text(table(3, 4), table(4, 4), 4, 1)
    p, q = rows.p, rows.q
    found = chances.with_replacement(p, q, rows.tokens, k, torch.Generator())
    for i in range(len(rows)):
        exact = recursive_rejection(p[i], q[i], k, distinct=False)
        x = int(rows.tokens[i])
        assert float(found.given[i]) == pytest.approx(float(exact[x] / p[i, x]), abs=ROUND_OFF)
        assert float(found.expected[i]) == pytest.approx(float(exact.sum()), abs=ROUND_OFF)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_draws_without_replacement_are_unbiased(k):
    many = 20000
    p, q = table(3, 4, 0.3)(()), table(4, 4, 0.3)(())
    exact = recursive_rejection(p, q, k, distinct=True)
    generator = torch.Generator().manual_seed(0)
    for x in range(4):
        found = chances.without_replacement(
            p.expand(many, -1), q.expand(many, -1), torch.full((many,), x), k, generator
        )
        wanted = float(exact[x] / p[x]) if p[x] > 0 else 0.0
        for values, mean in ((found.given, wanted), (found.expected, float(exact.sum()))):
            assert float(values.mean()) == pytest.approx(mean, abs=1e-9 + 4 * float(values.std()) / math.sqrt(many))


def test_the_agree_rule_agrees_as_often_as_shared_noise_does():
    p, q = table(1, 5, 0.3)(()), table(2, 5, 0.3)(())
    noise = torch.empty(400000, 5, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(0))
    ours, theirs = (p / noise).argmax(1), (q / noise).argmax(1)
    for x in range(5):
        found = chances.agree(p[None], q[None], torch.tensor([x]), 1, torch.Generator())
        both = float(((ours == x) & (theirs == x)).double().mean())
        assert float(found.given[0] * p[x]) == pytest.approx(both, abs=3e-3)
    assert float(found.expected[0]) == pytest.approx(float((ours == theirs).double().mean()), abs=3e-3)


def rounds_by_enumeration(rule, p, q, vocab: int, length: int, depth: int) -> float:
    """Expected rounds of a whole generation, over every draft, verdict and bonus token."""

    @cache
    def left(context: tuple[int, ...]) -> float:
        if len(context) == length:
            return 0.0
        total = 1.0
        reach = min(depth, length - len(context) - 1)
        for weight, tree in chains(q, vocab, context, reach):
            outcome = rule.outcome(tree, target_rows(p, context, tree))
            for row, stop in enumerate(outcome.stop):
                if stop > 0:
                    bonus = outcome.bonus(row) / outcome.bonus(row).sum()
                    kept = (*context, *tree.path_tokens(row - 1))
                    total += (
                        weight * stop * sum(float(bonus[y]) * left((*kept, y)) for y in range(vocab) if bonus[y] > 0)
                    )
        return total

    return left(())


@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_rounds_of_whole_generations_are_those_of_enumeration(rule, depth):
    p, q = table(11, 2), table(12, 2)
    rows, weights = every_text(p, q, 2, 5)
    given = survival(rows, Plan(rule, (1,) * depth)).given
    predicted = sum(
        w * float(rounds(given[s.begin : s.end], s.limit - s.begin)[0].sum())
        for w, s in zip(weights, rows.spans, strict=True)
    )
    assert predicted == pytest.approx(rounds_by_enumeration(get_rule(rule), p, q, 2, 5, depth), abs=ROUND_OFF)


def test_a_whole_generation_emits_its_text():
    p, q = table(11, 2), table(12, 2)
    rows, _ = every_text(p, q, 2, 6)
    given = survival(rows, Plan("block", (1, 1, 1))).given
    for span in rows.spans:
        begins, lengths = rounds(given[span.begin : span.end], 6)
        assert float((begins * (1.0 + lengths)).sum()) == pytest.approx(6.0, abs=1e-12)


def test_a_text_that_ended_counts_no_token_behind_its_end():
    p, q = table(5, 3), table(5, 3)  # the drafter is the target: every drafted token is kept
    rows, _ = every_text(p, q, 3, 2)
    ended = PairRows(rows.p[:2], rows.q[:2], rows.tokens[:2], [Span(0, 2, 10)], rows.texts[:1])
    found = survival(ended, Plan("token", (1, 1, 1))).given
    assert found.tolist() == [[pytest.approx(1.0)] * 2 + [0.0], [pytest.approx(1.0)] + [0.0] * 2]
    assert starts(ended, 3).tolist() == [0, 1]
    assert over_texts(ended, Plan("token", (1, 1, 1))).value == pytest.approx(3.0)  # 1 + 2 accepted in 1 round
    cut = PairRows(rows.p[:2], rows.q[:2], rows.tokens[:2], [Span(0, 2, 2)], rows.texts[:1])
    assert starts(cut, 2).tolist() == [0]
    assert over_texts(cut, Plan("token", (1, 1, 1))).value == pytest.approx(2.0)  # one drafted, one bonus


def test_rounds_start_more_often_where_acceptance_is_low():
    hard, easy = 0.2, 0.9
    given = torch.tensor([[hard], [hard], [hard], [easy], [easy], [easy]], dtype=torch.float64)
    begins, _ = rounds(given, 100)
    assert float(begins[1:3].mean()) > float(begins[4:].mean())


def test_averaging_the_last_token_out_lessens_the_spread():
    p, q = table(21, 3), table(22, 3)
    rows, weights = every_text(p, q, 3, 3)
    for rule in ("token", "block"):
        found = survival(rows, Plan(rule, (1, 1, 1)))
        first = [span.begin for span in rows.spans]
        w = torch.tensor(weights)[:, None]
        spread = [
            float((w * (values[first] - (w * values[first]).sum(0)) ** 2).sum())
            for values in (found.given, found.expected)
        ]
        assert spread[1] < spread[0]


def test_what_the_theory_does_not_cover_is_refused():
    rows, _ = every_text(table(1, 2), table(2, 2), 2, 2)
    with pytest.raises(OptionError, match="surrogate"):
        survival(rows, Plan("layer", (2, 1)))
    with pytest.raises(OptionError, match="verifies chains"):
        survival(rows, Plan("token", (2, 1)))
    with pytest.raises(OptionError, match="no text is long enough"):
        at_positions(rows, Plan("token", (1,) * 9))


def test_errors_are_over_texts():
    estimate = ratio([2.0, 4.0, 6.0], [1.0, 1.0, 1.0], 30)
    assert (estimate.value, estimate.texts, estimate.count) == (4.0, 3, 30)
    assert estimate.error == pytest.approx(2.0 / math.sqrt(3))
    assert math.isnan(ratio([2.0], [1.0], 1).error)
    again = ratio([3.0, 4.0, 6.5], [1.0, 1.0, 1.0], 30)
    assert again.off(estimate) == pytest.approx((4.5 - 4.0) / math.hypot(estimate.error, again.error))


def test_weights_shift_the_mean_over_positions():
    rows, _ = every_text(table(1, 2), table(2, 2), 2, 2)
    where = torch.arange(4)
    values, weights = torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), torch.tensor([1.0, 0.0, 0.0, 3.0]).double()
    assert by_text(rows, where, values, weights).value == pytest.approx(13 / 4)
