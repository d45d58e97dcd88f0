"""The windows that training steps see."""

from __future__ import annotations

import pytest
import torch

from draftgraph.lab.train.errors import PairTrainingError
from draftgraph.lab.train.windows import Windows


def test_windows_cover_the_text_before_they_repeat() -> None:
    rows = Windows(torch.arange(1000), seed=0).take(90, 10)
    assert rows.shape == (90, 11)
    assert len(set(rows[:, 0].tolist())) == 90


def test_windows_longer_than_the_text_are_refused() -> None:
    with pytest.raises(PairTrainingError, match="only 20 tokens"):
        Windows(torch.arange(20), seed=0).take(1, 16)
