"""The agree rule: sample from the target, follow the draft while it agrees.

Lossless for any draft whatsoever and optimal for deterministic ones. The draws read noise that belongs to the absolute
output position, so the text for a seed is the same with any drafter, structure and budget, or none
(drafter-invariant speculative decoding, arXiv 2408.07978).
"""

from __future__ import annotations

from typing import ClassVar

import torch

from draftgraph.rng import Noise
from draftgraph.types import Outcome, TokenTree, Verdict
from draftgraph.verify.base import Accepts, Rule


class AgreeRule(Rule):
    name: ClassVar[str] = "agree"
    source: ClassVar[str] = "target walk (SpecInfer's naive sampling, arXiv 2305.09781; SpecExec, arXiv 2406.02532)"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(frozenset({"fixed", "sampled"}), frozenset({"chain", "tree"}))
    position_noise: ClassVar[bool] = True

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        """The law of the walk over noise that is independent of the draft."""
        stop = [0.0] * (len(tree) + 1)
        reach = [1.0] + [0.0] * len(tree)
        for row in range(len(tree) + 1):
            followed: dict[int, int] = {}  # of equal siblings the first is followed
            for node in tree.children[row]:
                followed.setdefault(tree.tokens[node], node)
            for token, node in followed.items():
                reach[node + 1] = reach[row] * float(p[row, token])
            stop[row] = reach[row] * float(self._leaves(tree, p, row).sum(dtype=torch.float64))
        return Outcome(stop, lambda row: self._leaves(tree, p, row))

    def verdict(self, tree: TokenTree, p: torch.Tensor, noise: Noise, length: int) -> Verdict:
        row = 0
        path: list[int] = []
        while True:
            token = choose(p[row], noise, length + len(path))
            node = next((i for i in tree.children[row] if tree.tokens[i] == token), None)
            if node is None:
                return Verdict(tuple(path), token)
            path.append(node)
            row = node + 1

    @staticmethod
    def _leaves(tree: TokenTree, p: torch.Tensor, row: int) -> torch.Tensor:
        """p[row] without the tokens that the draft continues with: where the walk leaves the tree."""
        law = p[row].clone()
        law[[tree.tokens[node] for node in tree.children[row]]] = 0.0
        return law


def choose(p: torch.Tensor, noise: Noise, position: int) -> int:
    """The draw from p (f[V]) that belongs to an absolute output position."""
    return int((p / noise.exponentials(position, len(p)).to(p.device)).argmax())
