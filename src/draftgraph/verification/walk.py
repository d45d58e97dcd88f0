"""The target walk: sample from the target at every node, follow the child that agrees, stop where none does.

Lossless for any draft whatsoever, because it never reads how the draft came about, and optimal for deterministic drafts:
a node is accepted as often as the target itself would go there.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import EVERY_LAW, EVERY_STRUCTURE, Accepts, Rule
from draftgraph.verification.probabilities import target_probabilities


class WalkRule(Rule):
    name: ClassVar[str] = "walk"
    source: ClassVar[str] = "naive sampling of SpecInfer, arXiv 2305.09781; SpecExec, arXiv 2406.02532"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(EVERY_LAW, EVERY_STRUCTURE)
    longest_match: ClassVar[bool] = True
    uses_laws: ClassVar[bool] = False

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        chance = self.chances(tree, p)
        reach = [1.0] + [0.0] * len(tree)
        left = [1.0] * (len(tree) + 1)
        for node, parent in enumerate(tree.parents):
            reach[node + 1] = reach[parent + 1] * chance[node]
            left[parent + 1] -= chance[node]
        stop = [mass * max(0.0, rest) for mass, rest in zip(reach, left, strict=True)]
        return Outcome(stop, lambda row: self._leaves(tree, p, row))

    def chances(self, tree: TokenTree, p: torch.Tensor) -> list[float]:
        """p(token | prefix) of every node; 0 for a node that repeats a sibling, of which the first is followed."""
        seen: set[tuple[int, int]] = set()
        chances: list[float] = []
        for parent, token, value in zip(tree.parents, tree.tokens, target_probabilities(tree, p), strict=True):
            chances.append(0.0 if (parent, token) in seen else value)
            seen.add((parent, token))
        return chances

    @staticmethod
    def _leaves(tree: TokenTree, p: torch.Tensor, row: int) -> torch.Tensor:
        """p[row] without the tokens that the draft continues with: where the walk leaves the tree."""
        law = p[row].clone()
        law[[tree.tokens[node] for node in tree.children[row]]] = 0.0
        return law if bool(law.any()) else p[row]
