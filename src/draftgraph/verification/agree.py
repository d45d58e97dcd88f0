"""The agree rule: the target walk, over noise that belongs to output positions.

The text for a seed is then the same with any drafter, structure and budget, or none (drafter-invariant speculative
decoding, arXiv 2408.07978), and the drafter may look at the very noise that the target will be sampled with.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from draftgraph.sampling.rng import Noise
from draftgraph.types import TokenTree, Verdict
from draftgraph.verification.walk import WalkRule


class AgreeRule(WalkRule):
    name: ClassVar[str] = "agree"
    source: ClassVar[str] = "drafter-invariant speculative decoding, arXiv 2408.07978, on the target walk"
    position_noise: ClassVar[bool] = True
    longest_match: ClassVar[bool] = True

    def verdict(self, tree: TokenTree, p: torch.Tensor, noise: Noise, length: int) -> Verdict:
        row = 0
        path: list[int] = []
        masses = self.outcome(tree, p).masses(tree)
        while True:
            token = choose(p[row], noise, length + len(path))
            node = next((i for i in tree.children[row] if tree.tokens[i] == token), None)
            if node is None:
                return Verdict(tuple(path), token, masses)
            path.append(node)
            row = node + 1


def choose(p: torch.Tensor, noise: Noise, position: int) -> int:
    """The draw from p (f[V]) that belongs to an absolute output position."""
    return int((p / noise.exponentials(position, len(p)).to(p.device)).argmax())
