"""Traversal verification: identities draft by draft, shapes that look at other branches, and what it cannot use."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch
from hypothesis import given, settings

from draftgraph.errors import DraftError
from draftgraph.lab.prove.law import Draw, Laws, Program, output_law, random_tables, total_variation
from draftgraph.lab.prove.prover import prove
from draftgraph.lab.prove.slots import Children, Draft, best, hybrid, replaced, spine, unreplaced
from draftgraph.types import ROOT, TokenTree
from draftgraph.verification.base import Rule
from draftgraph.verification.block import BlockRule
from draftgraph.verification.layer import LayerRule
from draftgraph.verification.published.traversal import TraversalRule
from draftgraph.verification.walk import WalkRule
from oracles import assert_law_within_support, assert_same, drafts

RULE = TraversalRule()
EXACT, VISIBLE = 1e-12, 1e-3
quick = settings(max_examples=120, deadline=None)


def worst(rule: Rule, program: Callable[[int], Program], vocab: int, depth: int, seeds: int = 8) -> float:
    """The largest TV of program(seed) over random tables."""
    tvs = []
    for seed in range(seeds):
        tables = random_tables("random", vocab, depth, seed)
        law = output_law(rule, tables, program(seed), depth + 1).law
        tvs.append(total_variation(law, tables.target_law(depth + 1)))
    return max(tvs)


def test_it_is_lossless_on_every_draft_of_the_prover_but_shared_draws():
    proof = prove(RULE, depth=2, controls=False)
    assert proof.status == "proven", proof.max_tv
    assert {row.structure for row in proof.cases if row.refused} == {"shared draws"}


def test_it_is_lossless_in_single_precision():
    assert prove(RULE, depth=2, controls=False, dtype=torch.float32, tolerance=1e-5).status == "proven"


@quick
@given(drafts("chain"))
def test_it_is_block_verification_on_chains(draft):
    assert_same(RULE.outcome(*draft), BlockRule().outcome(*draft))


@quick
@given(drafts(depth=0))
def test_it_is_the_layer_rule_at_depth_one(draft):
    assert_same(RULE.outcome(*draft), LayerRule().outcome(*draft))


@quick
@given(drafts(laws="fixed"))
def test_it_is_the_target_walk_on_deterministic_trees(draft):
    assert_same(RULE.outcome(*draft), WalkRule().outcome(*draft))


@quick
@given(drafts(most=9))
def test_outcomes_are_laws_within_the_support_of_the_target(draft):
    tree, p = draft
    assert_law_within_support(RULE.outcome(tree, p), p)


def test_a_row_without_mass_stops_at_the_root():
    tree = TokenTree([0, 1], [ROOT, 0], [0, 0], torch.tensor([[0.5, 0.5]]))
    assert list(RULE.outcome(tree, torch.zeros(3, 2)).stop) == [1.0, 0.0, 0.0]


def test_a_long_chain_needs_no_recursion():
    n = 3000
    p = torch.full((n + 1, 2), 0.5, dtype=torch.float64)
    tree = TokenTree([0] * n, range(-1, n - 1), range(n), p[:n])
    assert RULE.outcome(tree, p).stop[n] == 1.0


# Shapes that look at other branches


def across(children: Children, depth: int, seed: int) -> Program:
    """The number of slots of a node, 0 to 2, is an arbitrary function of all tokens of the upper layers."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft, layer = Draft(), [ROOT]
        for d in range(depth):
            upper, below = str(draft.tokens), []
            for index, node in enumerate(layer):
                width = Random(f"{seed} {upper} {index}").randint(0, 2) if d else 2
                below += [draft.add(node, x, law) for x, law in children(q(draft.prefix(node)), width, draw)]
            layer = below
        return draft.tree(across=True)

    return program


@pytest.mark.parametrize(("vocab", "depth"), [(2, 3), (3, 2)])
@pytest.mark.parametrize("children", [hybrid, replaced, unreplaced, spine])
def test_the_shape_of_a_branch_may_look_at_other_branches(children, vocab, depth):
    assert worst(RULE, lambda seed: across(children, depth, seed), vocab, depth, seeds=4) < EXACT


def crossed(first_looks_below_second: bool) -> Program:
    """Two SAMPLED siblings; the one that is tested second has a SAMPLED child, and so has the first, if the other's is 0.

    With first_looks_below_second the first sibling itself, not its child, exists only then.
    """

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        a, b = draw(q(())), draw(q(()))
        c = draw(q((b,)))
        if c == 0 or not first_looks_below_second:
            first = draft.add(ROOT, a, q(()))
            if c == 0:
                draft.add(first, draw(q((a,))), q((a,)))
        draft.add(draft.add(ROOT, b, q(())), c, q((b,)))
        return draft.tree(across=True)

    return program


def test_even_at_tokens_of_its_own_depth_that_are_tested_later():
    assert worst(RULE, lambda seed: crossed(False), 3, 2) < EXACT


def test_a_slot_that_depends_on_a_token_below_a_later_sibling_is_biased():
    assert worst(RULE, lambda seed: crossed(True), 3, 2) > VISIBLE


def late_sibling(q: Laws, draw: Draw) -> TokenTree:
    """The best token FIXED beside one SAMPLED from the rest, each with a SAMPLED child; the best is dropped if that is 0."""
    draft = Draft()
    top, (token, rest) = hybrid(q(()), 2, draw)
    a = draft.add(ROOT, token, rest)
    b = draw(q(draft.prefix(a)))
    draft.add(a, b, q(draft.prefix(a)))
    if b != 0:
        sibling = draft.add(ROOT, *top)
        draft.add(sibling, draw(q(draft.prefix(sibling))), q(draft.prefix(sibling)))
    return draft.tree(across=True)


def test_a_sibling_may_depend_on_what_is_tested_before_it():
    assert worst(RULE, lambda seed: late_sibling, 3, 2) < EXACT
    assert worst(LayerRule(), lambda seed: late_sibling, 3, 2) > VISIBLE


# One draw below two parents


def merged(told: bool) -> Program:
    """One d ~ q(.|a) below the FIXED siblings a and b; told whether the two slots are one draw."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        a, b = (draft.add(ROOT, token) for token in best(q(()), 2))
        law = q(draft.prefix(a))
        d = draft.add(a, draw(law), law)
        if told:
            draft.share(b, d)
        else:
            draft.add(b, draft.tokens[d], law)
        return draft.tree()

    return program


def test_a_shared_draw_is_refused_by_name():
    with pytest.raises(DraftError, match="rule 'traversal' cannot use shared slots"):
        worst(RULE, lambda seed: merged(told=True), 3, 2)


def test_a_shared_draw_that_is_not_declared_is_biased():
    assert worst(RULE, lambda seed: merged(told=False), 3, 2) > VISIBLE
