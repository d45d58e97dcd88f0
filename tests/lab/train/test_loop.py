"""The learning rate, and going on from checkpoints."""

from __future__ import annotations

import pytest

from draftgraph.lab.train.loop import Run, rate_factor
from tiny import trained


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    assert rate_factor(0.0, 0.1, 0.5) < 0.05
    assert rate_factor(0.3, 0.1, 0.5) == 1.0
    assert rate_factor(0.75, 0.1, 0.5) == pytest.approx(0.5)
    assert rate_factor(1.0, 0.1, 0.5) == 0.0
    assert rate_factor(1.0, 0.1, 0.0) == 1.0


def test_a_run_goes_on_from_its_checkpoints(run: Run) -> None:
    first, _ = trained(run)
    (run.checkpoints / "target.pt").unlink()
    earlier = (run.checkpoints / "drafter.pt").stat().st_mtime_ns
    second, _ = trained(run)
    assert (run.checkpoints / "drafter.pt").stat().st_mtime_ns == earlier, "a finished stage is not trained again"
    assert second.config.num_hidden_layers == first.config.num_hidden_layers
