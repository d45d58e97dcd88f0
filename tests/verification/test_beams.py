"""The tests of one layer of beams: what is kept are independent draws, and how many is known before."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beam_tables import EnumeratedChance
from draftgraph.lab.prove.law import enumerate_draws
from draftgraph.verification.beams import NOWHERE, LayerTest, expected, keep, reached

PAIRS = 5


@st.composite
def laws(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, float]:
    """P, Q over pairs of living beams, and the mass of Q below others."""
    weights = st.lists(st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0, 3.0]), min_size=PAIRS, max_size=PAIRS)
    p = draw(weights.filter(any))
    q = draw(weights)
    dead = draw(st.sampled_from([0.0, 0.3, 2.0]))
    total = sum(q) + dead
    q, dead = (q, dead / total) if total else ([0.0] * PAIRS, 1.0)
    whole = torch.tensor(q, dtype=torch.float64)
    return (
        torch.tensor(p, dtype=torch.float64) / sum(p),
        whole * ((1.0 - dead) / float(whole.sum())) if float(whole.sum()) else whole,
        dead,
    )


@given(laws(), st.integers(0, 3), st.integers(1, 2))
def test_kept_pairs_are_independent_draws_from_p(pair, drafted: int, width: int) -> None:
    p, q, dead = pair
    test = LayerTest(p, q)
    law = torch.cat([q, torch.tensor([dead], dtype=torch.float64)])
    counts = [0.0] * (width + 1)

    def program(draw):
        pairs = [entry if entry < PAIRS else NOWHERE for entry in (draw(law) for _ in range(drafted))]
        kept, passed = keep(test, pairs, width, EnumeratedChance(draw), 1)
        return tuple(kept), sum(passed)

    found: dict[tuple[int, ...], float] = {}
    for mass, (kept, passed) in enumerate_draws(program):
        found[kept] = found.get(kept, 0.0) + mass
        counts[passed] += mass
    for kept in product(range(PAIRS), repeat=width):
        assert found.get(kept, 0.0) == pytest.approx(float(torch.prod(p[list(kept)])), abs=1e-12)
    assert test.acceptances(drafted, width) == pytest.approx(counts, abs=1e-12)


def test_a_number_is_reached_by_threshold_or_by_mean() -> None:
    law = [0.1, 0.2, 0.3, 0.4]
    assert [reached(law, threshold) for threshold in (0.39, 0.41, 0.71, 0.95)] == [3, 2, 1, 0]
    assert expected(law) == 2
    assert expected([0.0, 0.0, 1.0]) == 2
