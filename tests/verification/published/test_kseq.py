"""k-SEQ: the scale rho, the law that is left for the bonus token, siblings that are not i.i.d."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from draftgraph.errors import DraftError
from draftgraph.lab.prove.cases import by_depth, grow
from draftgraph.lab.prove.law import output_law, random_tables, total_variation
from draftgraph.lab.prove.prover import prove
from draftgraph.lab.prove.slots import replaced
from draftgraph.types import FIXED, ROOT, TokenTree
from draftgraph.verification.published.kseq import KSeqRule, plan
from draftgraph.verification.published.token import TokenRule
from oracles import assert_same, drafts, rows

RULE = KSeqRule()
quick = settings(max_examples=120, deadline=None)


def test_it_is_lossless_on_iid_siblings_and_refuses_all_else():
    proof = prove(RULE, depth=2, controls=False)
    assert proof.status == "proven", proof.max_tv
    accepted = {row.laws for row in proof.cases if not row.refused}
    assert accepted == {"sampled", "with replacement"}


@pytest.mark.parametrize("widths", [(2, 2), (3, 1), (1, 3)])
@pytest.mark.parametrize("kind", ["random", "sparse", "disjoint", "equal", "greedy"])
def test_it_is_lossless_on_trees(widths, kind):
    tables = random_tables(kind, 2, 2, 3)
    law = output_law(RULE, tables, grow(by_depth(*widths), replaced, 2), 3).law
    assert total_variation(law, tables.target_law(3)) < 1e-12


def test_it_is_lossless_in_single_precision():
    assert prove(RULE, depth=2, controls=False, dtype=torch.float32, tolerance=1e-5).status == "proven"


@quick
@given(drafts("chain", laws="sampled"))
def test_it_is_token_verification_on_chains(draft):
    assert_same(RULE.outcome(*draft), TokenRule().outcome(*draft))


@quick
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 9))
def test_rho_is_the_least_scale_that_leaves_a_law(seed, k, vocab):
    p, q = rows(torch.Generator().manual_seed(seed), 2, vocab)
    rho, left = plan(p, q, k)
    flow = torch.minimum(q, p / rho)
    beta = float(flow.sum())
    boost = sum((1.0 - beta) ** j for j in range(k))
    assert 1.0 <= rho <= k
    if beta > 0.0:
        assert boost <= rho + 1e-9
        assert rho == 1.0 or boost == pytest.approx(rho, abs=1e-9)  # a smaller scale would leave less than nothing
    # what is accepted and what is left add up to p
    torch.testing.assert_close(flow * boost + left, p, rtol=0, atol=1e-12)
    assert float(left.sum()) == pytest.approx((1.0 - beta) ** k, abs=1e-12)


def test_k_draws_are_accepted_as_often_as_the_paper_says():
    tables = random_tables("random", 4, 1, 5)
    for k in (1, 2, 3):
        _, left = plan(tables.p[0][0], tables.q[0][0], k)
        emitted = output_law(RULE, tables, grow(by_depth(k), replaced, 1), 2)
        assert emitted.expected_tokens == pytest.approx(2.0 - float(left.sum()), abs=1e-12)


@pytest.mark.parametrize("k", [2, 4])
def test_a_drafter_that_is_the_target_is_always_accepted(k):
    emitted = output_law(RULE, random_tables("equal", 2, 1, 5), grow(by_depth(k), replaced, 1), 2)
    assert emitted.expected_tokens == pytest.approx(2.0, abs=1e-12)


def test_siblings_with_different_laws_are_refused_by_name():
    laws = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    with pytest.raises(DraftError, match=r"rule 'kseq' verifies i\.i\.d\. siblings; nodes 1 and 2 .*'recursive'"):
        RULE.outcome(TokenTree([0, 0, 1], [ROOT, 0, 0], [0, 0, 1], laws), torch.full((4, 2), 0.5))
    with pytest.raises(DraftError, match="rule 'kseq' cannot use fixed slots"):
        RULE.outcome(TokenTree([0], [ROOT], [FIXED]), torch.full((2, 2), 0.5))
    RULE.check(TokenTree([0, 1], [ROOT, ROOT], [0, 1], torch.full((2, 2), 0.5)))
