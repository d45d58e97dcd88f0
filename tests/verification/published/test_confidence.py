"""FREE's rule: what it trusts, and that nothing is trusted at threshold 1."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import draftgraph as dg
from draftgraph.errors import DraftError, OptionError
from draftgraph.lab.prove.prover import prove
from draftgraph.types import FIXED, ROOT, TokenTree
from draftgraph.verification.published.confidence import ConfidenceRule
from draftgraph.verification.registry import get_rule
from models import perturbed, tiny_lm
from oracles import assert_same, drafts

quick = settings(max_examples=80, deadline=None)
P = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.8, 0.1, 0.1]], dtype=torch.float64)


def stop(rule: ConfidenceRule, tree: TokenTree) -> list[float]:
    return [round(float(mass), 6) for mass in rule.outcome(tree, P[: len(tree) + 1]).stop]


def test_sure_tokens_are_followed_and_the_others_are_walked_to() -> None:
    tree = TokenTree([2, 1], [ROOT, 0], [FIXED] * 2, confidence=[0.8, 0.4])
    assert stop(ConfidenceRule(0.5), tree) == [0.0, 0.4, 0.6]
    assert stop(ConfidenceRule(0.3), tree) == [0.0, 0.0, 1.0]
    assert stop(ConfidenceRule(0.8), tree) == [0.8, 0.08, 0.12]  # not above the threshold
    assert ConfidenceRule(0.5).outcome(tree, P).bonus(1).tolist() == [0.1, 0.0, 0.3]


def test_of_siblings_the_sure_one_is_followed_whatever_the_target_says() -> None:
    tree = TokenTree([0, 2], [ROOT, ROOT], [FIXED] * 2, confidence=[0.0, 0.9])
    assert stop(ConfidenceRule(0.5), tree) == [0.0, 0.0, 1.0]


@quick
@given(drafts(laws="fixed"), st.data())
def test_with_threshold_one_it_is_the_walk(draft: Any, data: st.DataObject) -> None:
    tree, p = draft
    sure = data.draw(st.lists(st.floats(0.0, 1.0), min_size=len(tree), max_size=len(tree)))
    stated = TokenTree(tree.tokens, tree.parents, tree.law_row, tree.laws, confidence=sure)
    assert_same(ConfidenceRule(1.0).outcome(stated, p), get_rule("walk").outcome(tree, p))
    assert_same(ConfidenceRule(0.0).outcome(tree, p), get_rule("walk").outcome(tree, p))  # FIXED slots that say nothing


@quick
@given(drafts(laws="fixed"), st.data())
def test_a_lower_threshold_accepts_no_less_of_a_chain(draft: Any, data: st.DataObject) -> None:
    tree, p = draft
    chain = TokenTree(tree.tokens, range(-1, len(tree) - 1), [FIXED] * len(tree))
    sure = data.draw(st.lists(st.floats(0.0, 1.0), min_size=len(tree), max_size=len(tree)))
    stated = TokenTree(chain.tokens, chain.parents, chain.law_row, confidence=sure)
    accepted = []
    for threshold in (1.0, 0.7, 0.4, 0.0):
        masses = ConfidenceRule(threshold).outcome(stated, p).stop
        accepted.append(sum(i * mass for i, mass in enumerate(masses)))
    assert accepted == pytest.approx(sorted(accepted))


def test_without_a_statement_the_law_of_a_sampled_slot_tells() -> None:
    laws = torch.tensor([[0.05, 0.05, 0.9], [0.1, 0.5, 0.4]], dtype=torch.float64)
    assert stop(ConfidenceRule(0.5), TokenTree([2, 1], [ROOT, 0], [0, 1], laws)) == [0.0, 0.4, 0.6]
    assert stop(ConfidenceRule(0.5), TokenTree([0, 1], [ROOT, 0], [0, 1], laws))[0] == 0.5  # not the likeliest token


def test_it_says_that_it_is_lossy_and_it_is() -> None:
    proof = prove(ConfidenceRule(0.05), depth=2, controls=False)
    assert proof.status == "lossy, as labelled"
    assert proof.max_tv > 0.01


def test_a_pure_call_takes_the_confidence() -> None:
    verdict = dg.verify(ConfidenceRule(0.5), [2], [-1], [-1], None, P[:2], 3, confidence=[0.6])
    assert verdict.path == (0,)
    with pytest.raises(DraftError, match="1 tokens needs 1 numbers of confidence; got 2"):
        dg.verify("confidence", [2], [-1], [-1], None, P[:2], 3, confidence=[0.6, 0.1])


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, True, "much", None])
def test_impossible_thresholds_are_refused(threshold: Any) -> None:
    with pytest.raises(OptionError, match=r"threshold=.* is not possible; write a number from 0"):
        ConfidenceRule(threshold)


# In the engine.

TEXT = [5, 9, 3, 40, 7, 2]


def engine(rule: Any, **options: Any) -> dg.Engine:
    target = tiny_lm()
    return dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.2), rule=rule, budget=5, **options)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("structure", ["chain", "tree", "graph", "comb"])
def test_with_threshold_one_the_text_is_that_of_the_walk(structure: str, temperature: float) -> None:
    asked: dict[str, Any] = {"max_new_tokens": 30, "temperature": temperature, "seed": 4}
    trusting = engine(ConfidenceRule(1.0), structure=structure).generate(TEXT, **asked)
    assert trusting.token_ids == engine("walk", structure=structure).generate(TEXT, **asked).token_ids
    assert not trusting.stats.lossless


def test_with_threshold_zero_a_greedy_chain_is_the_drafters_text() -> None:
    target = tiny_lm()
    drafter = perturbed(target, 0.6)
    lossy = dg.Engine.from_pretrained(
        target, draft_model=drafter, rule=ConfidenceRule(0.0), structure="chain", budget=4
    )
    result = lossy.generate(TEXT, max_new_tokens=20, temperature=0.0)
    plain = dg.Engine.from_pretrained(drafter, budget=0)
    text, place = [*TEXT, *result.token_ids], len(TEXT)
    for record in result.rounds:
        drafted = plain.generate(text[:place], max_new_tokens=max(1, len(record.tokens)), temperature=0.0).token_ids
        assert len(record.path) == len(record.tokens)
        assert drafted[: len(record.tokens)] == list(record.tokens)
        place += record.emitted
    exact = dg.Engine.from_pretrained(target, budget=0).generate(TEXT, max_new_tokens=20, temperature=0.0)
    assert result.token_ids != exact.token_ids
    assert not result.stats.lossless


def test_drafters_that_do_not_say_how_sure_they_are_are_refused() -> None:
    lookup = dg.Engine.from_pretrained(tiny_lm(), rule="confidence")
    with pytest.raises(OptionError, match=r"asks how sure the drafter is .*give draft_model"):
        lookup.generate(TEXT, max_new_tokens=4)
