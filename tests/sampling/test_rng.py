"""Random numbers are pure functions of their address."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.sampling.rng import Noise, Role, fresh_seed

small = st.integers(0, 10**6)


def chi_squared(values: np.ndarray, cells: int = 20) -> float:
    """Pearson's statistic of numbers in [0, 1) against the uniform law."""
    counts = np.bincount((values * cells).astype(int), minlength=cells)
    expected = len(values) / cells
    return float(((counts - expected) ** 2 / expected).sum())


BOUND = 43.8  # 99.9 % quantile of chi-squared with 19 degrees of freedom


@given(st.integers(-(2**80), 2**80), small, st.sampled_from(Role), small, small)
def test_a_uniform_is_a_pure_function_of_its_address(seed, length, role, depth, node):
    noise = Noise(seed)
    u = noise.uniform(length, role, depth, node)
    noise.uniform(length + 1, role, depth, node)
    noise.exponentials(length, 5)
    assert 0.0 <= u < 1.0
    assert noise.uniform(length, role, depth, node) == u == Noise(seed).uniform(length, role, depth, node)


def test_every_part_of_an_address_matters():
    base = {"length": 5, "role": Role.DRAFT, "depth": 2, "node": 3}
    changed = [{"length": 6}, {"role": Role.ACCEPT}, {"role": Role.BONUS}, {"depth": 3}, {"node": 2}]
    values = [Noise(1).uniform(**base)] + [Noise(1).uniform(**(base | change)) for change in changed]
    values += [Noise(2).uniform(**base), Noise(1, sample=1).uniform(**base)]
    assert len(set(values)) == len(values)
    # depth and node are two places of the address, not one sum
    assert Noise(1).uniform(5, Role.DRAFT, 2, 3) != Noise(1).uniform(5, Role.DRAFT, 3, 2)


@pytest.mark.parametrize("vary", ["seed", "length", "depth", "node"])
def test_uniforms_are_uniform_along_every_part_of_the_address(vary):
    values = []
    for i in range(4000):
        seed = i if vary == "seed" else 7
        address = {"length": 3, "depth": 1, "node": 0} | ({vary: i} if vary != "seed" else {})
        values.append(Noise(seed).uniform(role=Role.DRAFT, **address))
    assert chi_squared(np.array(values)) < BOUND


def test_neighbouring_addresses_are_uncorrelated():
    draws = np.array([[Noise(s).uniform(4, role) for role in Role] for s in range(3000)])
    off_diagonal = np.corrcoef(draws.T)[~np.eye(len(Role), dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.06


@given(st.integers(0, 2**63), small, st.integers(1, 300), st.integers(1, 300))
def test_exponentials_do_not_depend_on_the_size_or_the_order_of_calls(seed, position, a, b):
    noise = Noise(seed)
    first = noise.exponentials(position, a).clone()
    noise.exponentials(position + 1, b)
    second = noise.exponentials(position, b)
    shared = min(a, b)
    assert torch.equal(first[:shared], second[:shared])
    assert torch.equal(second, Noise(seed).exponentials(position, b))
    assert first.dtype == torch.float64
    assert first.shape == (a,)


def test_exponentials_are_exponential():
    values = Noise(3).exponentials(8, 4000).numpy()
    assert chi_squared(1.0 - np.exp(-values)) < BOUND
    firsts = np.array([float(Noise(3).exponentials(position, 1)[0]) for position in range(4000)])
    assert chi_squared(1.0 - np.exp(-firsts)) < BOUND


def test_forgotten_noise_comes_back_the_same():
    noise = Noise(9)
    before = [noise.exponentials(position, 4).clone() for position in range(4)]
    noise.forget_before(3)
    assert list(noise._positions) == [3]
    assert all(torch.equal(noise.exponentials(i, 4), old) for i, old in enumerate(before))


def test_samples_of_a_seed_and_roles_of_a_position_differ():
    assert not torch.equal(Noise(1).exponentials(0, 4), Noise(1, sample=1).exponentials(0, 4))
    assert not torch.equal(Noise(1).exponentials(0, 4), Noise(1).exponentials(1, 4))


def test_fresh_seeds_are_usable_and_differ():
    seeds = {fresh_seed() for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.integers(-(2**127), 2**128 - 1), st.sampled_from([2**64, -(2**64), 2**65, 2**100]), small)
def test_no_two_seeds_are_the_same_however_long_or_negative(seed, apart, length):
    one, other = Noise(seed), Noise(seed + apart)
    assert one.uniform(length, Role.ACCEPT) != other.uniform(length, Role.ACCEPT)
    assert not torch.equal(one.exponentials(length, 3), other.exponentials(length, 3))


def test_seeds_of_64_bits_keep_the_numbers_that_they_had():
    assert [Noise(seed).uniform(5, Role.DRAFT, 2, 3) for seed in (0, 7, 2**64 - 1)] == [
        0.17187321070971284,
        0.663203354195066,
        0.6490623733135025,
    ]
    assert len({Noise(seed).uniform(5, Role.DRAFT) for seed in (-1, 2**64 - 1, -(2**64), 0, 2**64, 1 - 2**64)}) == 6


@given(st.integers(-(2**80), 2**80), small, st.lists(st.tuples(small, small), max_size=4), small)
def test_numbers_that_were_worked_out_ahead_are_those_of_their_addresses(seed, length, places, other):
    noise, plain = Noise(seed), Noise(seed)
    noise.ahead([*((length, Role.DRAFT, depth, node) for depth, node in places), (length, Role.BONUS, 0, 0)])
    for depth, node in [*places, (other, other)]:
        assert noise.uniform(length, Role.DRAFT, depth, node) == plain.uniform(length, Role.DRAFT, depth, node)
        assert noise.uniform(length + 1, Role.DRAFT, depth, node) == plain.uniform(length + 1, Role.DRAFT, depth, node)
    assert noise.uniform(length, Role.BONUS) == plain.uniform(length, Role.BONUS)
    assert noise.uniform(length, Role.ACCEPT) == plain.uniform(length, Role.ACCEPT)
    noise.ahead([])
    assert not noise._ahead  # one round's numbers, however long the text becomes
