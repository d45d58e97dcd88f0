"""Greedy block verification: lossless with the positions that it re-targets, biased without, and as long as can be."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from draftgraph.errors import DraftError
from draftgraph.lab.prove.cases import CASES, by_depth, grow
from draftgraph.lab.prove.law import KINDS, Program, Tables, drafted, output_law, random_tables, total_variation
from draftgraph.lab.prove.prover import prove
from draftgraph.lab.prove.slots import replaced
from draftgraph.types import FIXED, ROOT, TokenTree
from draftgraph.verification.block import BlockRule
from draftgraph.verification.published.greedy_block import Continuation, GreedyBlockRule
from draftgraph.verification.published.token import TokenRule
from draftgraph.verification.walk import WalkRule
from oracles import assert_law_within_support, assert_same, drafts

RULE, BLOCK, TOKEN = GreedyBlockRule(), BlockRule(), TokenRule()
quick = settings(max_examples=120, deadline=None)
CHAINS = {case.laws: case.program for case in CASES if case.structure == "chain"}
TOY = ([1 / 3, 2 / 3], [2 / 3, 1 / 3])


def context_free(p: list[float], q: list[float], depth: int) -> Tables:
    def expand(law: list[float]) -> list[torch.Tensor]:
        return [torch.tensor([law] * len(law) ** d, dtype=torch.float64) for d in range(depth + 1)]

    return Tables(len(p), depth, expand(p), expand(q))


def drafted_prefixes(tables: Tables, program: Program) -> dict[tuple[int, ...], float]:
    """Q of every prefix of a chain, by enumeration."""
    mass: dict[tuple[int, ...], float] = defaultdict(float)
    for draft in drafted(tables, program):
        for length in range(len(draft.tree) + 1):
            mass[tuple(draft.tree.tokens[:length])] += draft.probability
    return mass


def continued_law(tables: Tables, program: Program) -> torch.Tensor:
    """f64[V**(g + 1)], the law of g + 1 tokens where the positions after the verdict are drawn as the rule says."""
    Q = drafted_prefixes(tables, program)
    law = torch.zeros((tables.vocab,) * (tables.depth + 1), dtype=torch.float64)

    def go_on(text: tuple[int, ...], probability: float, state: Continuation) -> None:
        if len(text) == tables.depth + 1:
            law[text] += probability
            return
        p, q = tables.target(text), torch.zeros(tables.vocab, dtype=torch.float64)
        if Q[text] > 0.0:
            q = torch.tensor([Q[(*text, x)] / Q[text] for x in range(tables.vocab)], dtype=torch.float64)
        weights = state.law(p, q)
        for x, weight in enumerate((weights / weights.sum()).tolist()):
            if weight > 0.0:
                go_on((*text, x), probability * weight, state.after(x, p, q))

    for draft in drafted(tables, program):
        outcome = RULE.outcome(draft.tree, draft.p)
        for end, stop in enumerate(outcome.stop):
            bonus = outcome.bonus(end)
            for x, weight in enumerate((bonus / bonus.sum()).tolist()):
                if stop * weight > 0.0:
                    state = RULE.continuation(draft.tree, draft.p, end, x)
                    go_on((*draft.tree.tokens[:end], x), draft.probability * stop * weight, state)
    return law.flatten()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("laws", CHAINS)
@pytest.mark.parametrize(("vocab", "depth"), [(3, 2), (2, 4)])
def test_with_its_continuation_it_is_lossless(laws, kind, vocab, depth):
    for seed in range(2):
        tables = random_tables(kind, vocab, depth, seed)
        law = continued_law(tables, CHAINS[laws](depth))
        assert total_variation(law, tables.target_law(depth + 1)) < 1e-12


class Alone(GreedyBlockRule):
    """The same verdicts, each followed by the plain target."""

    continues: ClassVar[bool] = False


def test_without_its_continuation_it_is_biased_and_says_so():
    assert not RULE.lossless
    assert RULE.continues
    alone, whole = prove(Alone(), depth=2, controls=False), prove(RULE, depth=2, controls=False)
    assert alone.max_tv > 0.01
    assert whole.max_tv < 1e-12
    assert {row.structure for row in whole.cases if not row.refused} == {"chain"}


@pytest.mark.parametrize("laws", ["sampled", "sampled, fixed, sampled"])
def test_it_accepts_as_many_tokens_as_a_coupling_can(laws):
    for seed in range(4):
        tables = random_tables("random", 3, 3, seed)
        program = CHAINS[laws](3)
        Q = drafted_prefixes(tables, program)
        P = [tables.target_law(length).tolist() for length in range(1, 4)]
        most = sum(min(Q[text], P[len(text) - 1][_digits(text, 3)]) for text in list(Q) if text)
        assert output_law(RULE, tables, program, 4).expected_tokens == pytest.approx(1.0 + most, abs=1e-12)


def _digits(text: tuple[int, ...], vocab: int) -> int:
    return sum(token * vocab**place for place, token in enumerate(reversed(text)))


def test_the_motivating_example():
    # arXiv 2403.10444, section 2: p = (1/3, 2/3), q = (2/3, 1/3), two draft tokens
    tables, chain = context_free(*TOY, 2), grow(by_depth(), replaced, 2)
    for rule, accepted in ((TOKEN, 10 / 9), (BLOCK, 11 / 9), (RULE, 12 / 9)):
        assert output_law(rule, tables, chain, 3).expected_tokens == pytest.approx(1.0 + accepted, abs=1e-12)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(2, 2), (3, 2), (2, 3), (2, 4)]), st.sampled_from(["random", "sparse"]))
def test_greedy_block_accepts_at_least_as_much_as_block_and_block_as_token(seed, size, kind):
    tables = random_tables(kind, *size, seed)
    chain = grow(by_depth(), replaced, size[1])
    greedy, block, token = (
        output_law(rule, tables, chain, size[1] + 1).expected_tokens for rule in (RULE, BLOCK, TOKEN)
    )
    assert greedy >= block - 1e-12
    assert block >= token - 1e-12


@quick
@given(drafts("chain", most=1))
def test_one_token_is_token_verification(draft):
    assert_same(RULE.outcome(*draft), TOKEN.outcome(*draft))


@quick
@given(drafts("chain", laws="fixed"))
def test_deterministic_chains_need_no_continuation(draft):
    tree, p = draft
    outcome = RULE.outcome(tree, p)
    assert_same(outcome, WalkRule().outcome(tree, p))
    for end, stop in enumerate(outcome.stop):
        for token in outcome.bonus(end).nonzero()[:, 0].tolist() if stop > 0.0 else []:
            state = RULE.continuation(tree, p, end, token)
            assert state.left == max(0, len(tree) - end - 1)
            assert state.left == 0 or math.isinf(state.odds)
            q = torch.full_like(p[0], 1.0 / len(p[0]))
            torch.testing.assert_close(state.law(p[0], q), p[0])


@quick
@given(drafts("chain"))
def test_outcomes_are_laws_within_the_support_of_the_target(draft):
    tree, p = draft
    assert_law_within_support(RULE.outcome(tree, p), p)


def test_odds_beyond_the_largest_float_stay_a_law():
    n = 1200
    q = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    p = torch.tensor([[1.0, 0.0]] * (n + 1), dtype=torch.float64)
    outcome = RULE.outcome(TokenTree([0] * n, range(-1, n - 1), [0] * n, q), p)
    assert outcome.stop[n] == 1.0
    assert bool(torch.isfinite(outcome.bonus(n - 1)).all())
    state = RULE.continuation(TokenTree([0] * n, range(-1, n - 1), [0] * n, q), p, n - 2, 0)
    assert state.left == 1
    torch.testing.assert_close(state.law(p[0], q[0]), p[0])


def test_single_precision_agrees_with_double():
    tables = random_tables("random", 3, 3, 4)
    for draft in drafted(tables, CHAINS["sampled"](3)):
        tree = draft.tree
        single = TokenTree(tree.tokens, tree.parents, tree.law_row, tree.laws.float())
        for a, b in zip(RULE.outcome(tree, draft.p).stop, RULE.outcome(single, draft.p.float()).stop, strict=True):
            assert a == pytest.approx(b, abs=1e-5)


def test_a_tree_is_refused_by_name():
    with pytest.raises(DraftError, match="rule 'greedy_block' verifies fixed, sampled slots on chains"):
        RULE.outcome(TokenTree([0, 1], [ROOT, ROOT], [FIXED, FIXED]), torch.full((3, 2), 0.5))
