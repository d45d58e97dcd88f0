"""Greedy multi-path block verification: the law of the selected path, refusals, precision."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from draftgraph.errors import DraftError
from draftgraph.lab.prove.cases import paths
from draftgraph.lab.prove.law import drafted, output_law, random_tables, total_variation
from draftgraph.lab.prove.prover import prove
from draftgraph.types import FIXED, ROOT, TokenTree
from draftgraph.verification.block import BlockRule
from draftgraph.verification.published.multipath import MultipathRule, _powers, _select
from oracles import assert_same, drafts

RULE = MultipathRule()
quick = settings(max_examples=60, deadline=None)
HALF = torch.full((2, 2), 0.5)


@pytest.mark.parametrize(("vocab", "depth"), [(3, 2), (2, 3)])
def test_it_is_lossless_on_paths_and_refuses_all_else(vocab, depth):
    proof = prove(RULE, vocab=vocab, depth=depth, controls=False)
    assert proof.status == "proven", proof.max_tv
    accepted = {(row.structure, row.laws) for row in proof.cases if not row.refused}
    assert {("chain", "sampled"), ("2 paths", "with replacement"), ("3 paths", "with replacement")} <= accepted
    assert all(structure in ("chain", "2 paths", "3 paths") for structure, _ in accepted)


@pytest.mark.parametrize("kind", ["random", "sparse", "equal"])
def test_it_is_lossless_on_three_paths(kind):
    tables = random_tables(kind, 2, 3, 1)
    assert total_variation(output_law(RULE, tables, paths(3, 3, 3), 4).law, tables.target_law(4)) < 1e-12


def test_it_is_lossless_in_single_precision():
    assert prove(RULE, depth=2, controls=False, dtype=torch.float32, tolerance=1e-5).status == "proven"


@quick
@given(drafts("chain", laws="sampled"))
def test_one_path_is_block_verification(draft):
    assert_same(RULE.outcome(*draft), BlockRule().outcome(*draft))


@pytest.mark.parametrize("kind", ["random", "sparse"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_selected_path_is_a_draw_from_the_law_that_is_verified(k, kind):
    tables = random_tables(kind, 3, 2, 7)
    share: dict[tuple[int, ...], float] = defaultdict(float)
    stated: dict[tuple[int, ...], float] = {}
    for draft in drafted(tables, paths(*[2] * k)):
        path, laws = _select(draft.tree, draft.p)
        tokens = tuple(draft.tree.tokens[node] for node in path)
        share[tokens] += draft.probability
        stated[tokens] = float(laws[0][tokens[0]] * laws[1][tokens[1]])
        for law in laws:
            assert float(law.sum()) == pytest.approx(1.0, abs=1e-12)
    assert stated == pytest.approx(dict(share), abs=1e-12)


@quick
@given(st.integers(0, 10**6), st.integers(2, 3))
def test_only_rows_of_the_selected_path_are_read(seed, k):
    tables = random_tables("random", 3, 2, seed)
    draft = list(drafted(tables, paths(*[2] * k)))[seed % 9**k]
    path, _ = _select(draft.tree, draft.p)
    p = draft.p.clone()
    kept = {tuple(draft.tree.path_tokens(node)) for node in (ROOT, *path)}
    for row in range(len(p)):  # equal prefixes have equal rows
        if tuple(draft.tree.path_tokens(row - 1)) not in kept:
            p[row] = p[row].flip(0)
    assert_same(RULE.outcome(draft.tree, p), RULE.outcome(draft.tree, draft.p), atol=0.0)


def test_powers_do_not_cancel():
    a = torch.tensor([1.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    b = torch.tensor([1.0, 1.0 - 1e-14, 0.25, 0.0], dtype=torch.float64)
    torch.testing.assert_close(_powers(a, b, 3), torch.tensor([3.0, 3.0, 0.4375, 0.0], dtype=torch.float64))


def test_many_paths_that_end_at_the_least_likely_token_stay_finite():
    q = torch.tensor([[1.0 - 1e-9, 1e-9]], dtype=torch.float64)
    p = torch.tensor([[1.0 - 1e-9, 1e-9]] * 65, dtype=torch.float64)
    outcome = RULE.outcome(TokenTree([1] * 64, [ROOT] * 64, [0] * 64, q), p)
    assert sum(outcome.stop) == pytest.approx(1.0, abs=1e-12)
    assert all(bool(torch.isfinite(outcome.bonus(row)).all()) for row in (0, 1))


def test_an_empty_draft_leaves_the_target():
    p = torch.tensor([[0.2, 0.8]])
    outcome = RULE.outcome(TokenTree([], [], []), p)
    assert list(outcome.stop) == [1.0]
    assert torch.equal(outcome.bonus(0), p[0])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (TokenTree([0], [ROOT], [FIXED]), "cannot use fixed slots"),
        (TokenTree([0, 1, 1], [ROOT, 0, 0], [0, 0, 0], HALF), "verifies sampled slots on i.i.d. paths"),
        (TokenTree([0, 1], [ROOT, ROOT], [0, 0], HALF, None, True), "looked across branches"),
        (TokenTree([0, 1, 1], [ROOT, ROOT, 0], [0, 0, 0], HALF), "these have 1 to 2 tokens"),
        (TokenTree([0, 1], [ROOT, ROOT], [0, 1], torch.tensor([[0.5, 0.5], [0.4, 0.6]])), "nodes 0 and 1 follow"),
        (
            TokenTree([0, 0, 1, 1], [ROOT, ROOT, 0, 1], [0, 0, 0, 1], torch.tensor([[0.5, 0.5], [0.4, 0.6]])),
            "nodes 2 and 3 follow",
        ),
    ],
)
def test_drafts_that_are_no_iid_paths_are_refused_by_name(tree, message):
    with pytest.raises(DraftError, match=f"rule 'multipath'.*{message}"):
        RULE.outcome(tree, torch.full((len(tree) + 1, 2), 0.5))


def test_equal_laws_in_two_rows_are_one_law():
    RULE.check(TokenTree([0, 0], [ROOT, ROOT], [0, 1], HALF))
