"""Recursive rejection sampling: from the root down, the slots of a node are tested one after the other.

A slot x with law l is accepted with probability min(1, M[x] / l[x]), M the law that is still to be matched, at first the
target's; after a rejection M becomes (M - l)_+, normalised. The first accepted slot is walked to; if there is none, the
bonus token is drawn from M (MCSD and SpecInfer: siblings drawn with replacement; Sequoia: without). Which of the two is
not an option here but what the recorded laws say: the law of a sibling drawn without replacement leaves out the siblings
before it. FIXED slots are point masses.

A draw below several parents keeps its law: the walk looks at the slots of the nodes on its path only, one node per layer,
so that the draw is looked at once. Below one parent, a slot that repeats a rejected draw is known to fail.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import EVERY_LAW, EVERY_STRUCTURE, Accepts, Rule
from draftgraph.verification.residual import mass, spend


class RecursiveRule(Rule):
    name: ClassVar[str] = "recursive"
    source: ClassVar[str] = (
        "recursive rejection: MCSD, arXiv 2401.06706; SpecInfer, arXiv 2305.09781; Sequoia, arXiv 2402.12374"
    )
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(EVERY_LAW, EVERY_STRUCTURE)

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        reach = [1.0] + [0.0] * len(tree)
        stop = [0.0] * (len(tree) + 1)
        residuals: dict[int, torch.Tensor] = {}
        for row, left in enumerate(reach):  # parents stand before their children
            if left > 0.0 and tree.slots[row]:
                residuals[row], left = self._test(tree, row, p[row].clone(), reach)
            stop[row] = left

        def bonus(row: int) -> torch.Tensor:
            # where p = l up to rounding nothing is left of M; the walk stops there about never, and then with p
            residual = residuals.get(row, p[row])
            return residual if bool(residual.any()) else p[row]

        return Outcome(stop, bonus)

    @staticmethod
    def _test(tree: TokenTree, row: int, residual: torch.Tensor, reach: list[float]) -> tuple[torch.Tensor, float]:
        """Test the slots of a row: fills in `reach` of its children; returns M, f[V] up to a factor, and what stops here."""
        left = reach[row]
        tested: set[int] = set()
        for node in tree.slots[row]:
            draw = node if tree.draws is None else tree.draws[node]
            if draw not in tested:
                accept = spend(tree, node, residual, mass(residual))
                reach[node + 1] = left * accept
                left *= 1.0 - accept
            tested.add(draw)
        return residual, left
