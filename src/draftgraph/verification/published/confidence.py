"""FREE's rule, which is not lossless: where the drafter is sure of its token, the target is not asked."""

from __future__ import annotations

from typing import ClassVar

import torch

from draftgraph.errors import OptionError
from draftgraph.types import FIXED, TokenTree
from draftgraph.verification.walk import WalkRule


class ConfidenceRule(WalkRule):
    """Follow the first child that the drafter was surer of than `threshold`; where there is none, walk by the target's law.

    The confidence of a token is by how much its probability leads that of any other (`TokenTree.confidence`). A draft that does
    not say it is judged by the laws that its SAMPLED slots were drawn from; FIXED slots then have none. With threshold 1 the
    rule is the walk, which is lossless. `draftgraph train --network exit` fits a threshold to the drafter that it makes.
    """

    name: ClassVar[str] = "confidence"
    source: ClassVar[str] = "FREE, arXiv 2310.05424, early exits by a threshold"
    lossless: ClassVar[bool] = False
    longest_match: ClassVar[bool] = False
    reads_confidence: ClassVar[bool] = True

    def __init__(self, threshold: float = 0.9) -> None:
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0.0 <= threshold <= 1.0:
            raise OptionError(
                f"threshold={threshold!r} is not possible; write a number from 0 (all that leads is trusted) to 1 (nothing is)"
            )
        self.threshold = float(threshold)

    def chances(self, tree: TokenTree, p: torch.Tensor) -> list[float]:
        """The probability that the path goes on to each node from its parent."""
        chances = super().chances(tree, p)
        sure = [value > self.threshold for value in _confidence(tree)]
        for nodes in tree.children:
            trusted = next((node for node in nodes if sure[node]), None)
            for node in nodes if trusted is not None else ():
                chances[node] = float(node == trusted)
        return chances


def _confidence(tree: TokenTree) -> list[float]:
    """Of every node."""
    if tree.confidence is not None:
        return list(tree.confidence)
    found = [0.0] * len(tree)
    if tree.laws is not None:
        (firsts, seconds), (best, _) = (values.T.tolist() for values in tree.laws.double().topk(2, dim=1))
        for node, row in enumerate(tree.law_row):
            if row != FIXED and tree.tokens[node] == best[row]:
                found[node] = firsts[row] - seconds[row]
    return found
