"""Calibration converges to what is true of synthetic pairs, and stays in its bounds whatever it is shown."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from draftgraph.draft.structures.calibrate import FLATTEST, HEADS, SHARPEST, SLACK, TEMPERATURES, Calibration, sharpen


def law(*weights: float) -> torch.Tensor:
    row = torch.tensor(weights, dtype=torch.float64)
    return row / row.sum()


@pytest.mark.parametrize("confirmed", [0.1, 0.5, 0.9])
def test_masses_of_fixed_tokens(confirmed: float) -> None:
    calibration = Calibration()
    assert calibration.mass(0.6, 0) == pytest.approx(0.6)  # the prior: they agree
    for _ in range(2000):
        calibration.observe_fixed([0.6], [confirmed])
    assert calibration.mass(0.6, 0) == pytest.approx(confirmed, abs=0.02)
    assert calibration.mass(0.6, 1) == pytest.approx(0.6)  # other ranks have learnt nothing
    assert calibration.mass(1.0, 0) <= 1.0


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_what_a_sampled_child_keeps(seed: int) -> None:
    """B(h, 1) converges to Σ min(q, p), and B(h, SLACK) to Σ min(SLACK q, p), for the head of this very law."""
    torch.manual_seed(seed)
    q, p = torch.softmax(torch.randn(2, 9, dtype=torch.float64), dim=1)
    calibration = Calibration()
    only = q.topk(1).indices
    for _ in range(600):
        calibration._observe_sampled(q, p, q[only].tolist(), p[only].tolist())
    head = float(q.max())
    assert calibration.kept(head, 1.0) == pytest.approx(float(torch.minimum(q, p).sum()), abs=0.01)
    assert calibration.kept(head, 0.5) == pytest.approx(0.5 * calibration.kept(head, 1.0))
    wide = float(torch.minimum(SLACK * q, p).sum())
    assert calibration.kept(head, SLACK) == pytest.approx(wide, abs=0.02)


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(0.1, 30.0)), min_size=1, max_size=60), st.booleans(),
)  # fmt: skip
def test_bounds(pairs: list[tuple[int, float]], greedy: bool) -> None:
    calibration = Calibration()
    for seed, scale in pairs:
        torch.manual_seed(seed)
        q, p = torch.softmax(scale * torch.randn(2, 6), dim=1)
        calibration.observe(q, torch.nn.functional.one_hot(p.argmax(), 6).to(p) if greedy else p)
    for head in (0.0, *HEADS):
        values = [calibration.kept(head, slack) for slack in (1e-3, 0.5, 1.0, 1.5, 4.0, 1e3)]
        assert all(0.0 <= value <= 1.0 for value in values)
        assert values == sorted(values)
    assert all(0.0 <= calibration.mass(q, rank) <= 1.0 for q in (0.0, 0.3, 1.0) for rank in (0, 3))
    row = calibration.expected([0.5, 0.3, 0.1, 0.05])
    assert row == sorted(row, reverse=True)
    assert calibration.temperature in TEMPERATURES
    assert all(map(math.isfinite, (*calibration.beta, *calibration.gamma)))


def test_a_flat_drafter_is_sharpened_and_a_good_one_is_not() -> None:
    p = law(100, *[1] * 50)
    for power, temperature in ((1.0, 1.0), (0.5, TEMPERATURES[-1])):
        calibration = Calibration()
        for _ in range(40):
            calibration.observe(sharpen(p[None], power)[0], p)
        assert calibration.temperature == temperature


@pytest.mark.parametrize("power", [0.6, 1.0, 2.5])
def test_the_sharpness_is_learnt_that_makes_best_tokens_as_likely_as_rows_say(power: float) -> None:
    """Choices are drawn from rows to the power of something: that power is found, up to what hundreds of choices tell."""
    generator = torch.Generator().manual_seed(5)
    calibration, last = Calibration(), []
    for number in range(1500):
        row = torch.softmax(torch.randn(6, generator=generator), dim=0)
        choice = int(torch.multinomial(sharpen(row[None], power)[0], 1, generator=generator))
        sharp = sharpen(row[None], calibration.sharpness)[0]
        best = int(sharp.argmax())
        calibration.observe_best(float(sharp[best]), float(choice == best))
        last += [calibration.sharpness] if number >= 500 else []
    assert sum(last) / len(last) == pytest.approx(power, rel=0.15)


def test_the_sharpness_has_bounds() -> None:
    always, never = Calibration(), Calibration()
    for _ in range(300):
        always.observe_best(0.2, 1.0)
        never.observe_best(0.9, 0.0)
    assert (always.sharpness, never.sharpness) == (SHARPEST, FLATTEST)


def test_sharpening() -> None:
    rows = torch.stack((law(4, 2, 1, 0), law(1, 1, 1, 1)))
    sharp = sharpen(rows, 2.0)
    torch.testing.assert_close(sharp, torch.stack((law(16, 4, 1, 0), law(1, 1, 1, 1))))
    torch.testing.assert_close(sharpen(rows, 1.0), rows)
