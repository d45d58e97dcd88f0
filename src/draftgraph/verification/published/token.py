"""Token verification of a chain: Leviathan et al., arXiv 2211.17192, and Chen et al., arXiv 2302.01318. A baseline."""

from __future__ import annotations

from typing import ClassVar

import torch

from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import Accepts, Rule
from draftgraph.verification.chain import law_of, ratio


class TokenRule(Rule):
    name: ClassVar[str] = "token"
    source: ClassVar[str] = "Speculative sampling, arXiv 2211.17192, Algorithm 1"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(frozenset({"fixed", "sampled"}), frozenset({"chain"}))

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        self.check(tree)
        stop: list[float] = []
        reach = 1.0  # probability that every token so far was accepted
        for node, token in enumerate(tree.tokens):
            law = law_of(tree, node, p[node])
            accept = min(1.0, ratio(float(p[node, token]), float(law[token])))
            stop.append(reach * (1.0 - accept))
            reach *= accept
        stop.append(reach)

        def bonus(row: int) -> torch.Tensor:
            if row == len(tree):
                return p[row]
            residual = (p[row] - law_of(tree, row, p[row])).clamp_min_(0.0)
            return residual if bool(residual.any()) else p[row]

        return Outcome(stop, bonus)
