"""Chi-squared numbers against tables, and the stated power against simulation."""

from __future__ import annotations

import pytest
import torch

from draftgraph.lab.audit.fit import Counts
from draftgraph.lab.audit.power import POWER, critical, detectable_tv, needed_shift, power, samples_needed, tail


@pytest.mark.parametrize(("freedom", "level", "value"), [(1, 0.05, 3.8415), (9, 0.01, 21.6660), (30, 0.001, 59.7031)])
def test_critical_values_are_those_of_the_tables(freedom, level, value):
    assert critical(freedom, level) == pytest.approx(value, abs=1e-4)
    assert tail(critical(freedom, level), freedom) == pytest.approx(level, rel=1e-9)


def test_power_is_the_level_without_a_shift_and_grows_to_one():
    threshold = critical(5, 0.01)
    assert power(5, 0.0, threshold) == pytest.approx(0.01, rel=1e-9)
    assert power(5, 10.0, threshold) < power(5, 20.0, threshold) < power(5, 2000.0, threshold)
    assert power(5, 2000.0, threshold) == pytest.approx(1.0)


def test_power_of_one_degree_is_that_of_the_normal_law():
    """A chi-squared variable with one degree is the square of a normal one."""
    threshold, shift = critical(1, 0.05), 7.849
    normal = torch.distributions.Normal(0.0, 1.0)
    edges = torch.tensor([threshold**0.5 - shift**0.5, threshold**0.5 + shift**0.5])
    assert power(1, shift, threshold) == pytest.approx(float((1.0 - normal.cdf(edges)).sum()), abs=1e-6)
    assert needed_shift(1, 0.05) == pytest.approx(10.507, abs=1e-2)  # (1.95996 + 1.28155)^2


def test_samples_needed_are_just_enough():
    n = samples_needed(9, 1e-4, 0.1)
    assert detectable_tv(9, 1e-4, n) <= 0.1 < detectable_tv(9, 1e-4, n - 1)


def seen(law: torch.Tensor, biased: torch.Tensor, samples: int, level: float, runs: int = 600) -> float:
    """The share of runs in which draws from `biased` are refuted under `law`."""
    torch.manual_seed(5)
    draws = torch.multinomial(biased, samples * runs, replacement=True).view(runs, samples)
    return sum(tail(*Counts.of_one_law(law, draw).merged().chi_squared()) < level for draw in draws) / runs


def test_the_stated_bias_is_seen_as_often_as_stated_in_the_worst_direction():
    """Half of the mass gives to the other half, each in proportion: the bound is then an equality."""
    law = torch.full((12,), 1.0 / 12, dtype=torch.float64)
    tv = detectable_tv(11, 1e-4, 1500)
    biased = law * (1.0 + 2.0 * tv * torch.tensor([1.0, -1.0] * 6))
    assert 0.5 * float((biased - law).abs().sum()) == pytest.approx(tv)
    assert seen(law, biased, 1500, 1e-4) == pytest.approx(POWER, abs=0.04)


@pytest.mark.parametrize("seed", range(3))
def test_in_other_directions_it_is_seen_at_least_as_often(seed):
    generator = torch.Generator().manual_seed(seed)
    law = torch.softmax(torch.randn(12, generator=generator, dtype=torch.float64), dim=0)
    counts = Counts.of_one_law(law, torch.zeros(1500, dtype=torch.int64)).merged()
    tv = detectable_tv(len(counts.observed) - 1, 1e-4, 1500)
    takes = torch.randperm(12, generator=generator)[:5]
    taken = torch.zeros_like(law)
    taken[takes] = law[takes]
    left = law - taken
    assert seen(law, law + tv * (taken / taken.sum() - left / left.sum()), 1500, 1e-4, runs=300) > POWER - 0.04


def test_without_a_bias_it_is_refuted_as_often_as_the_level_says():
    law = torch.full((12,), 1.0 / 12, dtype=torch.float64)
    assert seen(law, law, 1500, 0.05) == pytest.approx(0.05, abs=0.025)


def test_it_holds_for_draws_with_laws_of_their_own():
    """Every draw's law is biased by as much, from its own odd cells to its even ones."""
    torch.manual_seed(6)
    laws = torch.softmax(torch.randn(1500, 6, dtype=torch.float64), dim=1)
    tv = detectable_tv(5, 1e-4, 1500)
    gain, loss = laws.clone(), laws.clone()
    gain[:, 1::2], loss[:, ::2] = 0.0, 0.0
    biased = laws + tv * (gain / gain.sum(dim=1, keepdim=True) - loss / loss.sum(dim=1, keepdim=True))
    refuted = 0
    for _ in range(300):
        counts = Counts.empty(6)
        counts.add(torch.multinomial(biased.clamp_min(0.0), 1)[:, 0], laws)
        refuted += tail(*counts.merged().chi_squared()) < 1e-4
    assert refuted / 300 > POWER - 0.04
