"""The rule that judges, draft by draft: what is forgiven, what never is, and what a larger threshold changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from draftgraph.errors import DraftError, OptionError, PairError
from draftgraph.lab.prove.prover import prove
from draftgraph.sampling.laws import TargetLaws
from draftgraph.sampling.rng import Noise
from draftgraph.types import FIXED, ROOT, TokenTree
from draftgraph.verification.base import longest_match
from draftgraph.verification.check import verify
from draftgraph.verification.published.judge import JudgeHead, JudgeRule

quick = settings(max_examples=80, deadline=None)
VOCAB, WIDTH = 5, 3


class Told(JudgeHead):
    """Says of every token what the first hidden number behind it is."""

    def importance(self, before: torch.Tensor, behind: torch.Tensor) -> list[float]:
        return behind[:, 0].tolist()


def told(kind: type[JudgeHead] = Told, weight: torch.Tensor | None = None) -> JudgeHead:
    numbers = torch.ones(2 * WIDTH, dtype=torch.float64)
    known = torch.tensor([[0.0, 1.0, 2.0], [4.0, 0.0, 1.0]])
    return kind("hidden:2", numbers if weight is None else weight, 0.0, 0.0 * numbers, numbers, (3, 4), known)


@st.composite
def seen(draw: st.DrawFn) -> tuple[TokenTree, list[int], torch.Tensor, torch.Tensor]:
    """A tree, the target's choices, its scores with some tokens ruled out, and P(important) as hidden states."""
    count = draw(st.integers(0, 9))
    parents = [draw(st.integers(ROOT, node - 1)) for node in range(count)]
    tokens: list[int] = []
    for node in range(count):
        taken = {tokens[other] for other in range(node) if parents[other] == parents[node]}
        free = [token for token in range(VOCAB) if token not in taken]
        tokens.append(draw(st.sampled_from(free or [0])))
    tree = TokenTree(tokens, parents, [FIXED] * count)
    random = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scores = torch.randn(count + 1, VOCAB, generator=random)
    choices = scores.argmax(dim=1).tolist()
    ruled_out = torch.rand(count + 1, VOCAB, generator=random) < 0.2
    ruled_out[range(count + 1), choices] = False
    states = torch.rand(count + 1, WIDTH, generator=random)
    return tree, choices, scores.masked_fill(ruled_out, -torch.inf), states


def decide(head: JudgeHead | None, threshold: float, tree, choices, scores, states):
    rule = JudgeRule(head, threshold).seeing(scores, {"hidden:2": states})
    laws = TargetLaws(lambda: torch.eye(VOCAB)[choices], choices)
    return rule.decide(tree, laws, Noise(0), 4)


@quick
@given(seen())
def test_threshold_zero_and_no_head_are_the_longest_match(draft):
    tree, choices, _, _ = draft
    right = longest_match(tree, choices)
    for head, threshold in ((told(), 0.0), (None, 0.0), (None, 0.9)):
        verdict = decide(head, threshold, *draft)
        assert (verdict.path, verdict.token, list(verdict.masses)) == (right.path, right.token, list(right.masses))


@quick
@given(seen(), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_larger_threshold_goes_on_from_the_same_path(draft, one, other):
    small, large = sorted((one, other))
    short, long = (decide(told(), threshold, *draft).path for threshold in (small, large))
    assert long[: len(short)] == short


@quick
@given(seen(), st.floats(0.0, 1.0))
def test_every_accepted_token_is_the_targets_or_forgiven_and_the_path_ends_where_nothing_is(draft, threshold):
    tree, choices, scores, states = draft
    verdict = decide(told(), threshold, *draft)
    assert list(verdict.path) == tree.path(verdict.path[-1] if verdict.path else ROOT)

    def forgiven(node: int) -> bool:
        possible = float(scores[tree.parents[node] + 1, tree.tokens[node]]) > -math.inf
        return possible and float(states[node + 1, 0]) < threshold

    for node in verdict.path:
        row = tree.parents[node] + 1
        siblings = tree.children[row]
        if tree.tokens[node] != choices[row]:
            assert forgiven(node)
            assert all(tree.tokens[other] != choices[row] for other in siblings), "the target's own choice goes first"
            assert not any(forgiven(other) and states[other + 1, 0] < states[node + 1, 0] for other in siblings)
    end = verdict.path[-1] + 1 if verdict.path else 0
    assert not any(tree.tokens[node] == choices[end] or forgiven(node) for node in tree.children[end])
    assert verdict.token == choices[end]


@quick
@given(seen(), st.floats(0.0, 1.0))
def test_the_stated_law_is_the_verdict(draft, threshold):
    tree, choices, scores, states = draft
    verdict = decide(told(), threshold, *draft)
    p = torch.eye(VOCAB, dtype=torch.float64)[choices]
    outcome = JudgeRule(told(), threshold).seeing(scores, {"hidden:2": states}).outcome(tree, p)
    end = verdict.path[-1] + 1 if verdict.path else 0
    assert list(outcome.stop) == [float(row == end) for row in range(len(tree) + 1)]
    assert outcome.bonus(end).tolist() == p[end].tolist()


def test_what_is_not_a_number_is_not_forgiven():
    tree, scores = TokenTree([1], [ROOT], [FIXED]), torch.zeros(2, VOCAB)
    scores[:, 0] = 1.0
    states = torch.full((2, WIDTH), torch.nan)
    assert decide(told(), 1.0, tree, [0, 0], scores, states).path == ()
    assert decide(told(JudgeHead), 1.0, tree, [0, 0], scores, states).path == ()


def test_the_head_reads_the_row_above_and_the_row_of_the_token():
    weight = torch.tensor([1.0, 0.0, 0.0, 0.0, 10.0, 0.0], dtype=torch.float64)
    rows = torch.tensor([[2.0, 5.0, 5.0], [7.0, -0.5, 7.0]])
    (found,) = told(JudgeHead, weight).importance(rows[:1], rows[1:])
    assert found == pytest.approx(1.0 / (1.0 + math.exp(3.0)))


def test_it_says_that_it_is_lossy_and_without_hidden_states_it_is_greedy():
    rule = JudgeRule()
    assert (rule.lossless, rule.greedy, rule.uses_laws, rule.longest_match) == (False, True, False, False)
    assert prove(rule, depth=2, controls=False).status == "lossy, as labelled"
    p = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]])
    assert verify("judge", [1], [ROOT], [FIXED], None, p, 3).path == (0,)
    assert verify("judge", [2], [ROOT], [FIXED], None, p, 3).token == 1
    assert verify(JudgeRule(told(), 0.0), [2], [ROOT], [FIXED], None, p, 3).path == ()
    with pytest.raises(DraftError, match="reads the target's hidden states behind every drafted token"):
        verify(JudgeRule(told(), 0.5), [2], [ROOT], [FIXED], None, p, 3)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, True, "0.5", None])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(OptionError, match="write a probability from 0 to 1"):
        JudgeRule(told(), threshold)


def test_thresholds_may_be_numbers_of_any_library():
    assert [JudgeRule(told(), number).threshold for number in (1, np.float32(0.5), torch.tensor(0.25))] == [
        1.0,
        0.5,
        0.25,
    ]


def test_another_target_is_told_by_its_hidden_states():
    head = told()
    head.refuse_other_target({"hidden:2": head.known * 1.01})
    with pytest.raises(PairError, match=r"hidden states of 3 numbers, and the target's have 4"):
        head.refuse_other_target({"hidden:2": torch.zeros(2, 4)})
    for other in (head.known.flip(0), head.known * torch.nan, 2 * head.known):
        with pytest.raises(PairError, match="fitted to another target"):
            head.refuse_other_target({"hidden:2": other})
