"""Counts with known laws: merging, Pearson's statistic as a special case, draws that differ in their laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.lab.audit.fit import LEAST, Counts, fitted
from draftgraph.lab.audit.power import tail


def law(*masses: float) -> torch.Tensor:
    values = torch.tensor(masses, dtype=torch.float64)
    return values / values.sum()


def test_rare_tokens_share_one_cell():
    tokens = torch.tensor([0] * 60 + [3] * 36 + [1, 2, 4, 5])
    counts = Counts.of_one_law(law(0.5, 0.03, 0.03, 0.3, 0.07, 0.07), tokens)
    assert counts.expected.tolist() == pytest.approx([50.0, 30.0, 20.0])
    assert counts.observed.tolist() == [60.0, 36.0, 4.0]
    assert counts.merged().observed.tolist() == [60.0, 36.0, 4.0]


def test_a_tail_that_is_too_thin_joins_its_neighbour():
    counts = Counts.of_one_law(law(0.55, 0.35, 0.1), torch.tensor([0] * 50 + [1] * 30 + [2] * 20)).merged()
    assert counts.expected.tolist() == pytest.approx([55.0, 45.0])
    assert counts.observed.tolist() == [50.0, 50.0]


def test_a_law_without_a_choice_is_no_test():
    fit = fitted("tokens", "position 1", [Counts.of_one_law(law(0.999, 0.001), torch.zeros(100, dtype=torch.int64))])
    assert (fit.freedom, fit.p_value, fit.samples) == (0, 1.0, 0)


def test_with_one_law_the_statistic_is_pearsons():
    masses = law(4, 3, 2, 1)
    observed = torch.tensor([430.0, 290.0, 190.0, 90.0], dtype=torch.float64)
    tokens = torch.repeat_interleave(torch.arange(4), observed.long())
    expected = 1000 * masses
    statistic, freedom = Counts.of_one_law(masses, tokens).merged().chi_squared()
    assert freedom == 3
    assert statistic == pytest.approx(float(((observed - expected) ** 2 / expected).sum()))


@given(st.integers(0, 2**16), st.integers(2, 7), st.integers(1, 300))
def test_merging_keeps_the_counts_and_leaves_no_direction_thin(seed, cells, draws):
    generator = torch.Generator().manual_seed(seed)
    shares = torch.softmax(4.0 * torch.randn(draws, cells, generator=generator, dtype=torch.float64), dim=1)
    counts = Counts.empty(cells)
    counts.add(torch.multinomial(shares, 1, generator=generator)[:, 0], shares)
    merged = counts.merged()
    assert float(merged.observed.sum()) == draws
    assert float(merged.expected.sum()) == pytest.approx(draws)
    if len(merged.observed) > 1:
        assert float(torch.linalg.eigvalsh(merged.covariance)[1]) >= LEAST
        assert float(merged.expected.min()) >= LEAST / 2


def test_draws_with_laws_of_their_own_are_judged_by_their_own_variance():
    """Sure draws have none; counted as draws from the mean law, they would hide a bias of the others."""
    torch.manual_seed(3)
    shares = torch.cat([law(0.999, 0.0005, 0.0005).expand(3000, -1), law(1, 1, 1).expand(600, -1)])
    values = []
    for _ in range(400):
        counts = Counts.empty(3)
        counts.add(torch.multinomial(shares, 1)[:, 0], shares)
        values.append(tail(*counts.merged().chi_squared()))
    assert sum(value < 0.1 for value in values) / 400 == pytest.approx(0.1, abs=0.045)
    assert sum(value < 0.5 for value in values) / 400 == pytest.approx(0.5, abs=0.075)


def test_groups_add_up():
    first = Counts.of_one_law(law(1, 1), torch.tensor([0] * 70 + [1] * 30))
    second = Counts.of_one_law(law(1, 1), torch.tensor([0] * 30 + [1] * 70))
    fit = fitted("tokens", "position 2", [first, second])
    assert (fit.samples, fit.freedom) == (200, 2)
    assert fit.statistic == pytest.approx(2 * 16.0)
    assert fit.p_value == pytest.approx(tail(32.0, 2))
