"""Rules that are not lossless: what they accept, where they end, and what still holds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from draftgraph.errors import OptionError
from draftgraph.lab.prove.prover import prove
from draftgraph.types import FIXED, ROOT, TokenTree
from draftgraph.verification.published.lossy import TopBetaRule, TypicalRule
from oracles import assert_same, drafts

RULES = (TopBetaRule(), TypicalRule())
quick = settings(max_examples=120, deadline=None)


def path_of(rule, tree, p) -> list[int]:
    """The path that is accepted for sure."""
    stop = list(rule.outcome(tree, p).stop)
    assert sorted(stop) == [0.0] * len(tree) + [1.0]
    return tree.path(stop.index(1.0) - 1)


@pytest.mark.parametrize("rule", RULES)
def test_they_say_that_they_are_lossy_and_they_are(rule):
    proof = prove(rule, depth=2, controls=False)
    assert proof.status == "lossy, as labelled"
    assert proof.max_tv > 0.1
    assert all(row.refused is None for row in proof.cases)
    assert not rule.uses_laws


@quick
@given(drafts(), st.integers(1, 4), st.floats(0.0, 3.0))
def test_top_beta_accepts_tokens_among_the_best_and_close_to_the_best(draft, beta, tau):
    tree, p = draft
    rule = TopBetaRule(beta, tau)
    path = path_of(rule, tree, p)
    for node in path:
        row, token = p[tree.parents[node] + 1], tree.tokens[node]
        assert int((row > row[token]).sum()) < beta
        assert math.log(float(row.max())) - math.log(float(row[token])) <= tau + 1e-9
    end = path[-1] + 1 if path else 0
    bonus = rule.outcome(tree, p).bonus(end)
    assert float(bonus.sum()) == 1.0
    assert int(bonus.argmax()) == int(p[end].argmax())


@quick
@given(drafts(), st.floats(0.0, 3.0))
def test_top_beta_of_one_is_the_greedy_text(draft, tau):
    tree, p = draft
    row, greedy = 0, []
    while (node := next((n for n in tree.children[row] if tree.tokens[n] == int(p[row].argmax())), None)) is not None:
        greedy.append(node)
        row = node + 1
    path = path_of(TopBetaRule(1, tau), tree, p)
    # duplicates below one node are other nodes of the same text, and one of them may go on longer
    assert [tree.tokens[node] for node in path][: len(greedy)] == [tree.tokens[node] for node in greedy]
    for node in path:
        assert tree.tokens[node] == int(p[tree.parents[node] + 1].argmax())


def test_of_equal_tokens_the_lower_id_is_better():
    p = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.2, 0.8]])
    tree = TokenTree([1, 0], [ROOT, ROOT], [FIXED, FIXED])
    assert path_of(TopBetaRule(1), tree, p) == [1]
    assert path_of(TopBetaRule(2), tree, p) == [0]


@pytest.mark.parametrize(
    ("epsilon", "delta", "accepted"),
    # exp(-H) = 0.3536 for (1/2, 1/4, 1/4)
    [(0.2, 0.9, [0, 1, 2]), (0.26, 0.9, [0]), (0.26, 0.7, [0, 1, 2]), (0.26, 0.71, [0]), (0.25, 0.99, [0])],
)
def test_typical_accepts_above_the_smaller_of_two_bars(epsilon, delta, accepted):
    p = torch.tensor([0.5, 0.25, 0.25])
    good = TypicalRule(epsilon, delta).good(p.expand(3, 3), torch.arange(3))
    assert [token for token in range(3) if good[token]] == accepted


@quick
@given(drafts(), st.floats(0.0, 1.0), st.floats(0.0, 0.99))
def test_typical_accepts_the_best_token_and_leaves_the_bonus_to_the_target(draft, epsilon, delta):
    tree, p = draft
    rule = TypicalRule(epsilon, delta)
    assert bool(rule.good(p, p.argmax(dim=1)).all())
    for row in range(len(p)):
        assert torch.equal(rule.outcome(tree, p).bonus(row), p[row])


@pytest.mark.parametrize("rule", [TopBetaRule(5, 9.0), TypicalRule(0.0, 0.0)])
def test_the_longest_path_wins_then_the_likeliest_then_the_first(rule):
    p = torch.tensor([[0.5, 0.3, 0.2]] * 6, dtype=torch.float64)
    deep = TokenTree([0, 2, 2], [ROOT, ROOT, 1], [FIXED] * 3)
    assert path_of(rule, deep, p) == [1, 2]
    likely = TokenTree([1, 2, 0, 0], [ROOT, ROOT, 1, 0], [FIXED] * 4)
    assert path_of(rule, likely, p) == [0, 3]
    equal = TokenTree([1, 0, 1, 0], [ROOT, ROOT, 1, 0], [FIXED] * 4)
    assert path_of(rule, equal, p) == [1, 2]
    never = TokenTree([1, 2], [ROOT, ROOT], [FIXED] * 2)
    assert path_of(rule, never, torch.eye(3)) == []


@quick
@given(drafts(laws="fixed"))
def test_at_temperature_zero_they_are_the_longest_match(draft):
    tree, p = draft
    greedy = torch.eye(p.shape[1], dtype=p.dtype)[p.argmax(-1)]
    for rule in RULES:
        assert_same(rule.outcome(tree, greedy), TopBetaRule(1, 0.0).outcome(tree, greedy))


@pytest.mark.parametrize("rule", RULES)
def test_single_precision_decides_alike(rule):
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.8, 0.1, 0.1]], dtype=torch.float64)
    tree = TokenTree([1, 1], [ROOT, 0], [FIXED, FIXED])
    assert path_of(rule, tree, p) == path_of(rule, tree, p.float())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TopBetaRule(0), "beta >= 1.*got beta=0"),
        (lambda: TopBetaRule(3, -0.1), "tau >= 0.*tau=-0.1"),
        (lambda: TopBetaRule(3, math.nan), "tau=nan"),
        (lambda: TypicalRule(-0.1), "epsilon >= 0.*epsilon=-0.1"),
        (lambda: TypicalRule(0.1, 1.0), "delta < 1.*delta=1.0"),
    ],
)
def test_impossible_limits_are_refused(build, message):
    with pytest.raises(OptionError, match=message):
        build()


def by_hand(p: torch.Tensor, tokens: list[int], beta: int, tau: float) -> int:
    """How many tokens of a chain are accepted, as SpecDec says it: a loop over the target's best tokens."""
    for place, token in enumerate(tokens):
        scores = p[place].log().tolist()
        best = sorted(range(len(scores)), key=lambda other: (-scores[other], other))[:beta]
        if token not in best or scores[best[0]] - scores[token] > tau:
            return place
    return len(tokens)


@pytest.mark.parametrize("seed", range(20))
def test_top_beta_accepts_what_a_loop_over_the_best_tokens_does(seed):
    noise = torch.Generator().manual_seed(seed)
    count, vocab = 6, 40
    p = (2.5 * torch.randn(count + 1, vocab, generator=noise, dtype=torch.float64)).softmax(-1)
    ranks = torch.randint(0, 4, (count,), generator=noise)
    tokens = [int(row.argsort(descending=True)[rank]) for row, rank in zip(p, ranks, strict=False)]
    chain = TokenTree(tokens, range(-1, count - 1), [FIXED] * count)
    lengths = {}
    for beta in (1, 2, 3, 5, vocab):
        for tau in (0.0, 0.5, 1.0, 3.0, 50.0):
            lengths[beta, tau] = len(path_of(TopBetaRule(beta, tau), chain, p))
            assert lengths[beta, tau] == by_hand(p, tokens, beta, tau)
    for (beta, tau), length in lengths.items():
        assert all(length <= other for (b, t), other in lengths.items() if b >= beta and t >= tau)
    assert lengths[vocab, 50.0] == count


@quick
@given(drafts(), st.integers(1, 3), st.floats(0.0, 2.0))
def test_of_any_draft_more_is_accepted_with_wider_limits(draft, beta, tau):
    tree, p = draft
    length = len(path_of(TopBetaRule(beta, tau), tree, p))
    assert length <= len(path_of(TopBetaRule(beta + 1, tau), tree, p))
    assert length <= len(path_of(TopBetaRule(beta, tau + 0.7), tree, p))
