"""Arithmetic over rows: NumPy and torch say the same, and running sums the very same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from draftgraph.types import FIXED, ROOT, TokenTree
from draftgraph.verification import rows as arithmetic
from draftgraph.verification.registry import get_rule
from draftgraph.verification.rows import (
    NARROW_SUM,
    as_array,
    as_tensor,
    copied,
    held,
    less,
    picked,
    positive,
    running_sums,
    scaled,
    sums,
    together,
)  # fmt: skip

KINDS = (torch.float32, torch.float64)


def laws(count: int, vocab: int, kind: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(3.0 * torch.randn(count, vocab, generator=generator, dtype=torch.float64), dim=1).to(kind)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("vocab", [1, 2, 7, 1000, NARROW_SUM, NARROW_SUM + 1, 3 * NARROW_SUM])
def test_running_sums_have_the_same_bits_either_way(vocab: int, kind: torch.dtype) -> None:
    law = laws(1, vocab, kind)[0]
    expected = law.cumsum(dim=0, dtype=torch.float64)
    assert np.array_equal(running_sums(law), expected.numpy())
    assert np.array_equal(running_sums(law.requires_grad_()), expected.detach().numpy())


def test_rows_are_held_as_arrays_only_where_both_can_be() -> None:
    p, q = laws(3, 20), laws(2, 20)
    assert all(isinstance(rows, np.ndarray) for rows in held(p, q))
    assert held(p, None)[1] is None
    for pair in ((p.bfloat16(), q), (p, q.bfloat16()), (laws(1, arithmetic.NARROW + 1), None)):
        assert held(*pair) == pair  # the tensors themselves


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("numbers", [[0], [2], [1, 2, 3], [0, 2], [3, 1], [2, 2]], ids=str)
def test_arrays_and_tensors_say_the_same(numbers: list[int], kind: torch.dtype) -> None:
    p, q = laws(4, 50, kind), laws(4, 50, kind, seed=1)
    shares, before = [0.7 / (i + 1) for i in range(len(numbers))], p.clone()
    found = []
    for rows, others in ((p, q), (as_array(p), as_array(q))):
        left = scaled(picked(rows, numbers), shares)
        left = positive(less(left, picked(others, numbers), shares[::-1]))
        assert sums(left) == pytest.approx(as_tensor(left).double().sum(dim=1).tolist(), abs=1e-15)
        assert together([row[7] for row in left]) == as_tensor(left)[:, 7].tolist()
        found.append(as_tensor(left))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-7)  # torch rounds once where NumPy rounds twice
    assert torch.equal(p, before)  # nothing is written into the rows that were picked


def test_a_copy_of_a_row_is_its_own() -> None:
    for row in (laws(1, 5)[0], as_array(laws(1, 5))[0]):
        other = copied(row)
        other[0] = 7.0
        assert row[0] != 7.0


@st.composite
def drafts(draw: st.DrawFn) -> tuple[TokenTree, torch.Tensor]:
    """Trees of FIXED and SAMPLED slots with one SAMPLED slot per node at most, in which the tokens have mass; and target rows."""
    vocab, count = 6, draw(st.integers(1, 7))
    chain = draw(st.booleans())
    parents = [i - 1 if chain else draw(st.integers(ROOT, i - 1)) for i in range(count)]
    law_row: list[int] = []
    tokens: list[int] = []
    for i, parent in enumerate(parents):
        taken = {tokens[j] for j in range(i) if parents[j] == parent}
        sampled = {j for j in range(i) if parents[j] == parent and law_row[j] != FIXED}
        law_row.append(FIXED if sampled or draw(st.booleans()) else sum(row != FIXED for row in law_row))
        tokens.append(draw(st.sampled_from([token for token in range(vocab) if token not in taken])))
    q = laws(max(1, count), vocab, torch.float64, draw(st.integers(0, 99)))
    return TokenTree(tokens, parents, law_row, q), laws(count + 1, vocab, torch.float64, draw(st.integers(100, 199)))


@given(drafts(), st.sampled_from(["layer", "block"]))
@settings(max_examples=60, deadline=None)
def test_a_rule_says_the_same_in_numpy_and_in_torch(draft: tuple[TokenTree, torch.Tensor], name: str) -> None:
    tree, p = draft
    rule = get_rule(name if tree.is_chain else "layer")
    here = rule.outcome(tree, p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "NARROW", 0)
        there = rule.outcome(tree, p)
        for entry, stop in enumerate(here.stop):
            if stop > 1e-9:
                torch.testing.assert_close(normalised(here.bonus(entry)), normalised(there.bonus(entry)))
    assert here.stop == pytest.approx(there.stop, abs=1e-12)
    assert (here.p, here.q) == (there.p, there.q)


def normalised(law: torch.Tensor) -> torch.Tensor:
    return law / law.sum()
