"""Filters on the head of a row: the laws are those of transformers' processors, whatever the row looks like."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from draftgraph.sampling.filters import HEAD, TIES, Filters
from ids import told

OPTIONS = [
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": HEAD},
    {"top_p": 0.9},
    {"top_p": 0.1},
    {"min_p": 0.05},
    {"top_k": 20, "top_p": 0.95},
    {"top_k": 20, "top_p": 0.95, "min_p": 0.1},
    {"top_p": 0.8, "min_p": 0.3},
]


def reference(scores: torch.Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> torch.Tensor:
    """transformers' processors, in transformers' order."""
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1.0:
        scores = TopPLogitsWarper(top_p)(None, scores)
    if min_p > 0.0:
        scores = MinPLogitsWarper(min_p)(None, scores)
    return scores.softmax(dim=1)


def random_scores(kind: str, rows: int, vocab: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    if kind == "peaked":
        return 6.0 * scores
    if kind == "flat":
        return 0.1 * scores
    if kind == "ruled out":
        gone = torch.rand(rows, vocab, generator=generator) < 0.7
        gone[:, 0] = False
        return (3.0 * scores).masked_fill(gone, -torch.inf)
    return 3.0 * scores


@pytest.mark.parametrize("options", OPTIONS, ids=told)
@pytest.mark.parametrize("kind", ["usual", "peaked", "flat", "ruled out"])
@pytest.mark.parametrize("vocab", [3, 40, 3000, 9000])
def test_laws_are_those_of_transformers(options, kind, vocab):
    scores = random_scores(kind, 9, vocab, seed=vocab)
    before = scores.clone()
    torch.testing.assert_close(Filters(**options).laws(scores), reference(scores, **options), rtol=1e-9, atol=1e-12)
    assert torch.equal(scores, before)


@pytest.mark.parametrize("options", [{"top_k": 5}, {"top_k": 3, "min_p": 0.2}], ids=told)
def test_ties_at_the_last_place_stay_as_in_transformers(options):
    """Half precision makes ties common; more of them than the head holds make it look further."""
    for tied in (2, TIES - 4, TIES + 30):
        scores = torch.full((2, 500), -4.0)
        scores[0, 7:10] = torch.tensor([3.0, 2.5, 2.2])
        scores[0, 20 : 20 + tied] = 2.0
        torch.testing.assert_close(Filters(**options).laws(scores), reference(scores, **options))


@given(
    st.integers(0, 60),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
    st.integers(1, 400),
    st.integers(0, 10_000),
    st.floats(0.05, 8.0),
)
def test_any_combination(top_k, top_p, min_p, vocab, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(3, vocab, dtype=torch.float64, generator=generator)
    options = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    filters = Filters(**options)
    if filters:
        torch.testing.assert_close(filters.laws(scores), reference(scores, **options), rtol=1e-9, atol=1e-12)
    else:
        assert (top_k, top_p, min_p) == (0, 1.0, 0.0)


def test_a_flat_row_beside_a_peaked_one_is_looked_at_alone():
    scores = torch.stack((torch.zeros(4000), torch.linspace(30, -30, 4000)))
    laws = Filters(top_p=0.9).laws(scores)
    assert int((laws[0] > 0).sum()) > HEAD
    torch.testing.assert_close(laws.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(laws[1], reference(scores, top_p=0.9)[1])
