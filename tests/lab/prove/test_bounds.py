"""Upper bounds: they are reached where they must be, nothing exceeds them, and known optima are found again."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch

from draftgraph.errors import OptionError
from draftgraph.lab.prove import bounds
from draftgraph.lab.prove.bounds import ideal_bound, lossless_bound, prefix_sets
from draftgraph.lab.prove.cases import CASES, by_depth, grow
from draftgraph.lab.prove.exact import Setting, prove_all
from draftgraph.lab.prove.law import KINDS, Tables, output_law, random_tables
from draftgraph.lab.prove.prover import prove
from draftgraph.lab.prove.slots import fixed, hybrid, replaced
from draftgraph.verification.published.greedy_block import GreedyBlockRule
from draftgraph.verification.registry import RULES

pytest.importorskip("scipy")

CHAIN = grow(by_depth(), replaced, 2)


def toy() -> Tables:
    """The context-free pair p = (1/3, 2/3), q = (2/3, 1/3) of arXiv 2403.10444."""
    p = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    return Tables(2, 2, [p.repeat(2**d, 1) for d in range(3)], [p.flip(0).repeat(2**d, 1) for d in range(3)])


def tokens(rule, tables, program):
    return output_law(rule, tables, program, tables.depth + 1).expected_tokens


# Reached


def test_the_papers_example():
    tables = toy()
    assert tokens(RULES["token"], tables, CHAIN) == pytest.approx(1 + 10 / 9, abs=1e-12)
    assert tokens(RULES["block"], tables, CHAIN) == pytest.approx(1 + 11 / 9, abs=1e-12)
    assert lossless_bound(tables, CHAIN) == pytest.approx(1 + 11 / 9, abs=1e-9)
    assert tokens(GreedyBlockRule(), tables, CHAIN) == pytest.approx(1 + 12 / 9, abs=1e-12)
    assert ideal_bound(tables, CHAIN) == pytest.approx(1 + 12 / 9, abs=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_block_verification_is_optimal_on_chains(depth, seed):
    tables, chain = random_tables("random", 3, depth, seed), grow(by_depth(), replaced, depth)
    assert tokens(RULES["block"], tables, chain) == pytest.approx(lossless_bound(tables, chain), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [c for c in CASES if c.structure == "chain"], ids=lambda case: case.laws)
def test_greedy_block_is_the_ideal_coupling_on_chains(kind, case):
    tables, program = random_tables(kind, 3, 3, 2), case.program(3)
    assert tokens(GreedyBlockRule(), tables, program) == pytest.approx(ideal_bound(tables, program), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("structure", ["chain", "tree 2,2,1", "adapted tree"])
def test_the_walk_is_optimal_on_deterministic_drafts(kind, structure):
    case = next(c for c in CASES if (c.structure, c.laws) == (structure, "fixed"))
    tables, program = random_tables(kind, 3, 3, 1), case.program(3)
    assert tokens(RULES["walk"], tables, program) == pytest.approx(lossless_bound(tables, program), abs=1e-9)
    assert ideal_bound(tables, program) == pytest.approx(lossless_bound(tables, program), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_one_layer_of_hybrid_slots_has_the_published_optimum(seed):
    """p(top) + sum over the rest of min(p, q without the top): greedy draft sampling, arXiv 2502.18779."""
    tables, program = random_tables("random", 4, 1, seed), grow(by_depth(2), hybrid, 1)
    p, q = tables.target(()), tables.drafter(()).clone()
    top = int(q.argmax())
    q[top] = 0.0
    q /= q.sum()
    optimum = 1 + float(p[top] + torch.minimum(p, q)[q > 0].sum())
    assert lossless_bound(tables, program) == pytest.approx(optimum, abs=1e-9)
    assert tokens(RULES["layer"], tables, program) == pytest.approx(optimum, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_one_layer_of_draws_has_the_published_optimum(k, seed):
    """1 + min over sets H of tokens of p(H) - P(all k draws in H): the dual of arXiv 2502.18779."""
    tables, program = random_tables("random", 4, 1, seed), grow(by_depth(k), replaced, 1)
    p, q = tables.target(()), tables.drafter(())
    sets = [list(chosen) for size in range(5) for chosen in combinations(range(4), size)]
    dual = 1 + min(float(p[chosen].sum() - q[chosen].sum() ** k) for chosen in sets)
    assert lossless_bound(tables, program) == pytest.approx(1 + dual, abs=1e-9)


# Not exceeded


def test_no_rule_that_is_proven_exceeds_its_bound():
    for proof in prove_all(list(RULES.values()), Setting(depth=2, bounds=True, controls=False)):
        for row in proof.cases:
            if row.bound is not None:
                assert row.gap == pytest.approx(1 - row.expected_tokens / row.bound)
                assert row.gap >= -1e-9 or proof.status != "proven", (proof.rule, row)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ideal_is_not_below_the_lossless_bound(kind):
    tables = random_tables(kind, 3, 2, 5)
    for case in CASES:
        lossless, ideal = lossless_bound(tables, case.program(2)), ideal_bound(tables, case.program(2))
        assert 1.0 <= lossless <= ideal + 1e-9
        assert ideal <= 3.0 + 1e-9


def quoted(tables, k):
    """1 + sum_t sum_x Q [1 - (1 - min(P / Q, 1))^K], the length that is quoted for SpecTr-GBV (arXiv 2604.25925)."""
    total = 1.0
    for length in range(1, tables.depth + 1):
        for text in product(range(tables.vocab), repeat=length):
            P = Q = 1.0
            for i, token in enumerate(text):
                P *= float(tables.target(text[:i])[token])
                Q *= float(tables.drafter(text[:i])[token])
            total += Q * (1 - (1 - min(P / Q, 1)) ** k)
    return total


@pytest.mark.parametrize("seed", [0, 1])
def test_a_quoted_length_that_no_coupling_has(seed):
    tables = random_tables("random", 3, 2, seed)
    assert quoted(tables, 1) == pytest.approx(ideal_bound(tables, CHAIN), abs=1e-9)
    for k in (2, 3):
        assert quoted(tables, k) > ideal_bound(tables, grow(by_depth(k), replaced, 2)) + 1e-3


# What a bound is made of


def test_drafts_with_the_same_prefixes_are_one():
    tables = random_tables("random", 3, 1, 0)
    q = tables.drafter(()).tolist()
    law = prefix_sets(tables, grow(by_depth(2), replaced, 1))
    assert len(law) == 6
    assert law[frozenset({(1,)})] == pytest.approx(q[1] ** 2)
    assert law[frozenset({(0,), (2,)})] == pytest.approx(2 * q[0] * q[2])


def test_a_round_without_a_draft_is_its_bonus_token():
    tables = random_tables("random", 3, 1, 0)
    assert lossless_bound(tables, grow(by_depth(), fixed, 0)) == ideal_bound(tables, grow(by_depth(), fixed, 0)) == 1.0


def test_without_scipy_bounds_are_refused_and_proofs_are_not(monkeypatch):
    monkeypatch.setattr(bounds, "find_spec", lambda name: None)
    assert not bounds.available()
    with pytest.raises(OptionError, match=r"pip install 'draftgraph\[prove\]'"):
        prove("block", depth=1, controls=False, bounds=True)
    assert all(row.bound is None for row in prove("block", depth=1, controls=False).cases)


def test_a_rule_that_sets_later_laws_is_bounded_by_the_ideal():
    chain = [case for case in CASES if case.structure == "chain"]
    block, greedy = prove_all(
        [RULES["block"], GreedyBlockRule()], Setting(cases=tuple(chain), bounds=True, controls=False)
    )
    for lossless, ideal in zip(block.cases, greedy.cases, strict=True):
        assert (lossless.gap, ideal.gap) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
    assert greedy.cases[0].bound > block.cases[0].bound + 1e-3
