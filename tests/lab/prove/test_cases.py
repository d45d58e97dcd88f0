"""The prover's draft programs are what they say: distributions over drafts whose slots carry their exact conditional laws."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from draftgraph.lab.prove.cases import CASES, by_depth, comb, delayed, grow, levels, paths, shared
from draftgraph.lab.prove.law import KINDS, enumerate_draws, output_law, random_tables, total_variation
from draftgraph.lab.prove.slots import (
    best,
    fixed,
    hybrid,
    inclusions,
    repeated,
    replaced,
    spine,
    systematic,
    unreplaced,
)
from draftgraph.types import FIXED, ROOT
from draftgraph.verification.registry import RULES
from oracles import rows
from slot_laws import worst_law

EXACT = 1e-12
CHILDREN = (fixed, hybrid, spine, replaced, unreplaced, repeated, systematic)
quick = settings(max_examples=60, deadline=None)


def drafts(program, tables):
    return [tree for _, tree in enumerate_draws(lambda draw: program(tables.drafter, draw))]


def full(vocab=3, depth=3, seed=2):
    return random_tables("random", vocab, depth, seed)


# Every case


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.structure} {case.laws}")
@pytest.mark.parametrize("kind", KINDS)
def test_every_slot_of_every_case_states_its_conditional_law(case, kind):
    depth = 3 if kind == "sparse" else 2
    assert worst_law(case.program(depth), random_tables(kind, 3, depth, 4)) < EXACT


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.structure} {case.laws}")
def test_a_case_is_a_distribution_over_drafts_and_small_enough(case):
    for depth in (0, 1, 2, 3):
        chances = [p for p, _ in enumerate_draws(lambda draw, d=depth: case.program(d)(full().drafter, draw))]
        assert sum(chances) == pytest.approx(1.0, abs=EXACT)
        assert len(chances) <= 3 * 3 ** (2 * depth)


def test_cases_have_names_of_their_own():
    assert len({(case.structure, case.laws) for case in CASES}) == len(CASES)


def test_every_kind_of_draft_and_slot_is_among_the_cases():
    trees = [tree for case in CASES for tree in drafts(case.program(2), full(depth=2))]
    assert {tree.structure for tree in trees} == {"chain", "paths", "tree", "levels"}
    assert set().union(*(tree.kinds for tree in trees)) == {"fixed", "sampled", "shared"}


# Structures


@pytest.mark.parametrize("lengths", [(2,), (2, 2), (1, 3), (1, 1, 1)])
def test_paths_part_at_the_root_and_may_be_equal(lengths):
    trees = drafts(paths(*lengths), full())
    assert len(trees) == 3 ** sum(lengths)
    for tree in trees:
        leaves = [node for node in range(len(tree)) if not tree.children[node + 1]]
        assert sorted(tree.depths[leaf] for leaf in leaves) == sorted(lengths)
        assert len(tree.children[0]) == len(lengths)
        assert FIXED not in tree.law_row
    if len(set(lengths)) == 1 < len(lengths):
        assert any(tree.path_tokens(lengths[0] - 1) == tree.path_tokens(len(tree) - 1) for tree in trees)


def test_a_comb_has_leaves_beside_a_path_and_more_of_them_where_q_is_unsure():
    tables = full(seed=7)
    teeth = set()
    for tree in drafts(comb(3), tables):
        sampled = [node for node, row in enumerate(tree.law_row) if row != FIXED]
        assert [tree.parents[node] for node in sampled] == [ROOT, *sampled[:-1]]
        for row in [0, *(node + 1 for node in sampled[:-1])]:
            top = float(tables.drafter(tuple(tree.path_tokens(row - 1))).max())
            children = tree.children[row]
            assert len(children) == 1 + (top < 0.5) + (top < 0.8)
            assert len({tree.tokens[node] for node in children}) == len(children)
            teeth.add(len(children) - 1)
    assert len(teeth) > 1


def test_a_delayed_tree_branches_at_its_last_token():
    for tree in drafts(delayed(unreplaced, 3), full()):
        assert [len(tree.children[row]) for row in (0, 1, 2)] == [1, 1, 2]


def test_a_shared_draw_is_one_token_with_one_law_below_every_node_of_a_layer():
    for tree in drafts(shared(hybrid, 3, False, 3), full()):
        assert tree.draws == [0, 1, 2, 3, 3, 3, 6, 6, 6]
        assert len(set(tree.tokens[3:6])) == len(set(tree.tokens[6:])) == 1
        assert tree.kinds == {"fixed", "sampled", "shared"}


def test_slots_of_their_own_stand_beside_a_shared_draw():
    for tree in drafts(shared(fixed, 2, True, 2), full()):
        (first, own), (second, leaf) = tree.slots[1], tree.slots[2]
        assert tree.draws[second] == first
        assert tree.law_row[leaf] == FIXED
        assert float(tree.laws[tree.law_row[own], tree.tokens[first]]) == 0.0


def test_the_shape_of_levels_looks_across_branches_and_not_ahead():
    shapes = defaultdict(set)
    for tree in drafts(levels(hybrid, 3), full(seed=1)):
        assert tree.across
        for depth in (1, 2):
            upper = tuple((tree.parents[n], tree.tokens[n]) for n in range(len(tree)) if tree.depths[n] <= depth)
            layer = [n for n in range(len(tree)) if tree.depths[n] == depth]
            widths = tuple(len(tree.children[n + 1]) for n in layer)
            assert sorted(widths, reverse=True) == [2, 1, *[0] * (len(layer) - 2)]
            shapes[depth, upper].add(widths)
    assert all(len(widths) == 1 for widths in shapes.values())
    assert len({next(iter(widths)) for (depth, _), widths in shapes.items() if depth == 2}) > 1


# Children


@quick
@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**32))
def test_systematic_slots_are_different_tokens_drawn_with_probability_proportional_to_size(vocab, k, seed):
    q = rows(torch.Generator().manual_seed(seed), 1, vocab)[0]
    chance = torch.zeros(vocab, dtype=torch.float64)
    for probability, slots in enumerate_draws(lambda draw: systematic(q, k, draw)):
        tokens = [token for token, _ in slots]
        assert len(tokens) == len(set(tokens)) == min(k, int((q > 0).sum()))
        assert all(law is None or float(law[token]) > 0.0 for token, law in slots)
        chance[tokens] += probability
    wanted = inclusions(q, k)
    torch.testing.assert_close(chance, wanted, rtol=0, atol=EXACT)
    below = (wanted < 1.0) & (q > 0.0)
    if bool(below.any()):
        c = float(wanted[below][0] / q[below][0])
        torch.testing.assert_close(wanted, (c * q).clamp(max=1.0), rtol=0, atol=1e-9)


def test_systematic_slots_by_hand():
    """q = (.5, .3, .2), three half-open intervals of length 1, .6, .4: the first is certain, u picks one of the others."""
    q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    (first, (second, law)) = systematic(q, 2, lambda law: 1)
    assert first == (0, None)
    assert second == 1
    torch.testing.assert_close(law, torch.tensor([0.0, 0.6, 0.4], dtype=torch.float64))
    # (.4, .3, .3) with lengths .8, .6, .6: token 1 covers both u > .8 and u + 1 < 1.4, so it is drawn first or second
    q = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)
    laws = {
        tuple(t for t, _ in s): [law.tolist() for _, law in s]
        for _, s in enumerate_draws(lambda d: systematic(q, 2, d))
    }
    assert laws == {
        (0, 1): [pytest.approx([0.8, 0.2, 0.0]), pytest.approx([0.0, 0.5, 0.5])],
        (0, 2): [pytest.approx([0.8, 0.2, 0.0]), pytest.approx([0.0, 0.5, 0.5])],
        (1, 2): [pytest.approx([0.8, 0.2, 0.0]), pytest.approx([0.0, 0.0, 1.0])],
    }


def test_hybrid_children_without_a_rest_are_fixed():
    one_hot = torch.tensor([0.0, 1.0, 0.0])
    assert hybrid(one_hot, 2, lambda law: 0) == [(1, None), (0, None)]
    assert hybrid(one_hot, 0, lambda law: 0) == []


@pytest.mark.parametrize("children", CHILDREN, ids=lambda children: children.__name__)
def test_no_slots_are_no_slots(children):
    assert children(torch.tensor([0.2, 0.8], dtype=torch.float64), 0, best) == []


# Any shape


@st.composite
def programs(draw):
    """A program of random structure, with any children below any node, chosen from the node's depth, prefix and q."""
    depth, seed = draw(st.integers(1, 3)), draw(st.integers(0, 2**32))

    def width(d, prefix, index):
        return Random(f"{seed} {d} {prefix}").choice((0, 1, 1, 2) if d else (1, 2, 2))

    def children(q, k, draw_token):
        return Random(f"{seed} {q.tolist()}").choice(CHILDREN)(q, k, draw_token)

    structure = draw(st.sampled_from(("tree", "levels", "shared", "delayed", "paths")))
    lengths = draw(st.lists(st.integers(0, 2), max_size=3))
    return {
        "tree": grow(width, children, depth),
        "levels": levels(children, depth),
        "shared": shared(children, draw(st.integers(1, 3)), draw(st.booleans()), depth),
        "delayed": delayed(children, depth),
        "paths": paths(*lengths),
    }[structure]


@quick
@given(programs(), st.sampled_from(KINDS), st.integers(2, 3), st.integers(0, 2**32))
def test_any_program_states_true_laws_and_is_decoded_without_loss(program, kind, vocab, seed):
    tables = random_tables(kind, vocab, 3, seed)
    count = sum(1 for _, (_, _) in zip(range(401), enumerate_draws(lambda d: program(tables.drafter, d)), strict=False))
    assume(count <= 400)
    assert worst_law(program, tables) < 1e-9
    for name in ("layer", "walk"):
        emitted = output_law(RULES[name], tables, program, 4)
        assert total_variation(emitted.law, tables.target_law(4)) < EXACT


def test_the_count_of_conditional_laws_sees_a_wrong_one():
    tables = full(depth=2)
    honest = grow(by_depth(2), replaced, 2)

    def program(q, draw):
        tree = honest(q, draw)
        laws = tree.laws.clone()
        laws[-1] = laws[-1].flip(0)
        return type(tree)(tree.tokens, tree.parents, tree.law_row, laws)

    assert worst_law(honest, tables) < EXACT
    assert worst_law(program, tables) > 1e-2
