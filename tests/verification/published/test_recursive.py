"""Recursive rejection: identities draft by draft, draws below several parents, nothing left to sample from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from draftgraph.lab.prove.cases import by_depth, grow, shared
from draftgraph.lab.prove.law import Draw, Laws, output_law, random_tables, total_variation
from draftgraph.lab.prove.prover import prove
from draftgraph.lab.prove.slots import Draft, hybrid, replaced, unreplaced
from draftgraph.types import FIXED, ROOT, TokenTree
from draftgraph.verification.layer import LayerRule
from draftgraph.verification.published.recursive import RecursiveRule
from draftgraph.verification.published.token import TokenRule
from draftgraph.verification.walk import WalkRule
from oracles import assert_law_within_support, assert_same, drafts, recursive_rejection

RULE = RecursiveRule()
quick = settings(max_examples=120, deadline=None)


def test_it_is_lossless_on_every_draft_of_the_prover():
    proof = prove(RULE, depth=2, controls=False)
    assert proof.status == "proven", proof.max_tv
    assert all(row.refused is None for row in proof.cases)


def test_it_is_lossless_in_single_precision():
    assert prove(RULE, depth=2, controls=False, dtype=torch.float32, tolerance=1e-5).status == "proven"


@pytest.mark.parametrize("parents", [hybrid, replaced, unreplaced])
def test_a_draw_below_several_parents_keeps_its_law_down_to_depth_three(parents):
    for seed in range(4):
        tables = random_tables("random", 2, 3, seed)
        law = output_law(RULE, tables, shared(parents, 2, True, 3), 4).law
        assert total_variation(law, tables.target_law(4)) < 1e-12


def test_a_draw_that_hangs_twice_below_one_parent_is_tested_once():
    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        first = draft.add(ROOT, draw(q(())), q(()))
        draft.share(ROOT, first)
        return draft.tree()

    for seed in range(4):
        tables = random_tables("random", 3, 1, seed)
        emitted = output_law(RULE, tables, program, 2)
        once = output_law(RULE, tables, grow(by_depth(), replaced, 1), 2)
        assert total_variation(emitted.law, tables.target_law(2)) < 1e-12
        assert emitted.expected_tokens == pytest.approx(once.expected_tokens, abs=1e-12)


@quick
@given(drafts(depth=0))
def test_it_is_the_layer_rule_at_depth_one(draft):
    assert_same(RULE.outcome(*draft), LayerRule().outcome(*draft))
    assert_same(RULE.outcome(*draft), recursive_rejection(*draft))


@quick
@given(drafts("chain"))
def test_it_is_token_verification_on_chains(draft):
    assert_same(RULE.outcome(*draft), TokenRule().outcome(*draft))


@quick
@given(drafts(laws="fixed"))
def test_it_is_the_target_walk_on_deterministic_trees(draft):
    assert_same(RULE.outcome(*draft), WalkRule().outcome(*draft))


@quick
@given(drafts())
def test_outcomes_are_laws_within_the_support_of_the_target(draft):
    tree, p = draft
    assert_law_within_support(RULE.outcome(tree, p), p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_residual_leaves_the_target(dtype):
    p = torch.tensor([[0.1, 0.2, 0.7]] * 4, dtype=dtype)
    tree = TokenTree([2, 2, 0], [ROOT, ROOT, 1], [0, 0, FIXED], p[:1])
    outcome = RULE.outcome(tree, p)
    assert outcome.stop[1] == pytest.approx(1.0, abs=1e-6)
    assert sum(outcome.stop) == pytest.approx(1.0, abs=1e-12)
    for row in range(4):
        assert bool(torch.isfinite(outcome.bonus(row)).all())
        assert bool(outcome.bonus(row).any())


def test_a_row_without_mass_stops_the_walk():
    tree = TokenTree([0, 1], [ROOT, ROOT], [0, FIXED], torch.tensor([[0.5, 0.5]]))
    assert list(RULE.outcome(tree, torch.zeros(3, 2)).stop) == [1.0, 0.0, 0.0]
