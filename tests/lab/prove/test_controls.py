"""Every published mistake is caught, every repair passes, and the mistakes have the size that was reported for them."""

from __future__ import annotations

import pytest
import torch

from draftgraph.lab.prove.addressing import ADDRESSES
from draftgraph.lab.prove.cases import by_depth, grow, paths
from draftgraph.lab.prove.controls import CONTROLS, DEPTH, judged
from draftgraph.lab.prove.law import Tables, output_law, random_tables, total_variation
from draftgraph.lab.prove.misdrafted import (
    argmax_chain,
    at_temperature,
    best_of_two,
    denoised,
    late_sibling,
    merged_token,
    reshaped_chain,
    siblings,
    top_two,
    truncated,
    unreplaced_pair,
    untouched,
)
from draftgraph.lab.prove.misjudged import OwnSamples, ProductBlock, SameUniform, UncappedBlock
from draftgraph.lab.prove.slots import fixed, replaced
from draftgraph.types import FIXED, ROOT, TokenTree
from draftgraph.verification.registry import RULES
from oracles import assert_same
from slot_laws import worst_law

EXACT, VISIBLE = 1e-12, 1e-3


def toy(depth=2):
    """The context-free pair p = (1/3, 2/3), q = (2/3, 1/3) of arXiv 2403.10444."""
    p = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    return Tables(
        2, depth, [p.repeat(2**d, 1) for d in range(depth + 1)], [p.flip(0).repeat(2**d, 1) for d in range(depth + 1)]
    )


def emitted(rule, depth=2):
    """(tv, expected accepted tokens) on the toy pair."""
    law = output_law(rule, toy(depth), grow(by_depth(), replaced, depth), depth + 1)
    return total_variation(law.law, toy(depth).target_law(depth + 1)), law.expected_tokens - 1.0


@pytest.mark.parametrize("control", [*CONTROLS, *ADDRESSES], ids=lambda control: control.name)
def test_controls(control):
    tvs = [control.tv(random_tables("random", 3, DEPTH, seed)) for seed in range(4)]
    assert max(tvs) > VISIBLE if control.must_fail else max(tvs) < EXACT
    assert control.source


def test_controls_have_names_of_their_own():
    names = [control.name for control in (*CONTROLS, *ADDRESSES)]
    assert len(names) == len(set(names))


# Drafts: the stated laws are wrong, whatever rule reads them, and those of the repairs are right.


@pytest.mark.parametrize(
    ("mistake", "repair"),
    [
        (merged_token("new prefix"), merged_token("fixed")),
        (merged_token("first prefix"), merged_token("fixed")),
        (siblings(drop_duplicates=True), siblings(drop_duplicates=False)),
        (best_of_two(True, 2), best_of_two(False, 2)),
        (argmax_chain(True, 2), argmax_chain(False, 2)),
        (top_two(True), top_two(False)),
        (unreplaced_pair(True), unreplaced_pair(False)),
        (
            reshaped_chain(untouched, at_temperature(0.9), 2),
            reshaped_chain(at_temperature(0.9), at_temperature(0.9), 2),
        ),
        (reshaped_chain(truncated(2), untouched, 2), reshaped_chain(truncated(2), truncated(2), 2)),
        (denoised(2), denoised(1)),
        (late_sibling("deeper token"), late_sibling("upper layers")),
    ],
)
def test_the_stated_laws_of_a_mistake_are_wrong_and_those_of_its_repair_are_true(mistake, repair):
    tables = [random_tables("random", 3, DEPTH, seed) for seed in range(4)]
    assert max(worst_law(mistake, pair) for pair in tables) > 1e-2
    assert max(worst_law(repair, pair) for pair in tables) < EXACT


def test_a_law_of_another_temperature_biases_a_chain_by_a_few_percent():
    tables = random_tables("random", 3, DEPTH, 0)
    program = reshaped_chain(untouched, at_temperature(0.9), DEPTH)
    for name in ("token", "block"):
        assert 0.005 < judged(program, RULES[name])(tables) < 0.05


def test_reshaped_laws():
    q = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    torch.testing.assert_close(truncated(2)(q), torch.tensor([0.625, 0.0, 0.375], dtype=torch.float64))
    torch.testing.assert_close(at_temperature(0.5)(q), torch.tensor([25.0, 4.0, 9.0], dtype=torch.float64) / 38)
    assert at_temperature(1.0)(q).equal(untouched(q))


# Rules


def test_the_uncapped_last_position_is_biased_by_one_ninth_and_its_extra_tokens_are_the_bias():
    """The toy pair and its figures: block accepts 11/9 tokens, the most that is lossless; un-capped 12/9 (arXiv 2601.05724)."""
    assert emitted(RULES["block"]) == (pytest.approx(0.0, abs=EXACT), pytest.approx(11 / 9))
    assert emitted(UncappedBlock()) == (pytest.approx(1 / 9), pytest.approx(12 / 9))
    assert emitted(RULES["token"]) == (pytest.approx(0.0, abs=EXACT), pytest.approx(10 / 9))


@pytest.mark.parametrize("name", ["block", "layer"])
def test_capped_it_is_block_verification_for_one_token(name):
    assert emitted(UncappedBlock(), 1) == pytest.approx(emitted(RULES[name], 1), abs=EXACT)


def test_products_of_uniforms_by_hand():
    """Position 1 passes if u1 <= a, position 2 if u1 u2 <= ab; P(u1 u2 <= t) = t - t log t."""
    p, q = torch.tensor([[0.3, 0.7]] * 3, dtype=torch.float64), torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    a = 0.6
    tree = TokenTree([0, 0], [ROOT, 0], [0, 0], q)
    log = torch.tensor(a, dtype=torch.float64).log().item()
    both = a * a * (1.0 - 2.0 * log)
    first = (a - a * a) + a * a * log  # u1 in (ab, a], u1 u2 > ab
    assert ProductBlock().outcome(tree, p).stop == pytest.approx([1.0 - both - first, first, both])
    free = TokenTree([1, 1], [ROOT, 0], [0, 0], q)
    assert ProductBlock().outcome(free, p).stop == pytest.approx([0.0, 0.0, 1.0])
    impossible = torch.tensor([[0.0, 1.0]] * 3, dtype=torch.float64)
    assert ProductBlock().outcome(tree, impossible).stop == pytest.approx([1.0, 0.0, 0.0])


@pytest.mark.parametrize("rule", [SameUniform(), ProductBlock()], ids=lambda rule: rule.name)
def test_one_token_gives_no_room_for_mistakes_about_several_numbers(rule):
    assert emitted(rule, 1) == pytest.approx(emitted(RULES["token"], 1), abs=EXACT)


def test_a_single_path_may_have_samples_of_its_own():
    tables = random_tables("random", 3, DEPTH, 1)
    assert judged(grow(by_depth(), fixed, DEPTH), OwnSamples())(tables) < EXACT
    assert judged(paths(DEPTH, DEPTH), OwnSamples())(tables) > VISIBLE
    tree = TokenTree([2, 1], [ROOT, 0], [FIXED, FIXED])
    assert_same(OwnSamples().outcome(tree, tables.rows(tree)), RULES["walk"].outcome(tree, tables.rows(tree)))
