"""The target's laws of one round: at the root, and behind every drafted node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass
class TargetLaws:
    """Row 0 is the root's, row i + 1 that of node i.

    rows     makes `p`; the request's next round may overwrite it.
    choices  N + 1 tokens where all laws are point masses, as at temperature 0; None elsewhere.
    """

    rows: Callable[[], torch.Tensor]
    choices: Sequence[int] | None = None

    @cached_property
    def p(self) -> torch.Tensor:
        """f[N + 1, V], rows sum to one over V. Point masses are spelt out only if somebody asks for them."""
        return self.rows()
