"""The target's laws of one round: at the root, and behind every drafted node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TargetLaws:
    """Row 0 is the root's, row i + 1 that of node i. Both are overwritten by the request's next round.

    p        f[N + 1, V], rows sum to one over V.
    choices  N + 1 tokens where all laws are point masses, as at temperature 0; None elsewhere.
    """

    p: torch.Tensor
    choices: Sequence[int] | None = None
