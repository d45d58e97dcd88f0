"""Traversal verification: depth-first, leaf first (arXiv 2505.12398), for slots of any recorded law.

A node holds the target mass that may still be emitted below it, R (f[V], at first w p with w its acceptance mass), and
f = 1 - w, the mass that stays above. A slot (x, l) gets the acceptance mass min(1, R[x] / (c l[x])) with c = f + |R|, and
its subtree is tested. If all of that fails, R becomes (R - c l)_+ and the next slot follows; after the last one the path
stops at the node with probability |R| / (|R| + f). So there is one sequence of tests for a draft, each made after all
earlier ones have failed, and the law of the verdict is a product along it.

Averaged over the draws below a node, all tests in its subtree fail with probability f, whatever its shape: a failed branch
says nothing about the tokens outside it. So the shape of a branch may look at other branches, and trees that grow level by
level (A1 of docs/layer_rule.md) are verified without bias. What must not happen is that the slots of a node depend on
tokens below the same node that are tested after them, or that a draw hangs below two parents: where it is tested second it
has been looked at, and does not have the law any more that it was drawn from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import EVERY_STRUCTURE, Accepts, Rule
from draftgraph.verification.residual import mass, spend


@dataclass
class _Open:
    """A row whose slots are being tested: f, R (f[V]) and the slots that are left."""

    row: int
    missing: float
    residual: torch.Tensor
    slots: Iterator[int]


class TraversalRule(Rule):
    name: ClassVar[str] = "traversal"
    source: ClassVar[str] = "Traversal Verification, arXiv 2505.12398, Algorithm 2"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(frozenset({"fixed", "sampled"}), EVERY_STRUCTURE)

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        self.check(tree)
        stop = [0.0] * (len(tree) + 1)
        residuals: dict[int, torch.Tensor] = {}
        carry = 1.0  # probability that all tests so far have failed
        path = [_Open(0, 0.0, p[0].clone(), iter(tree.slots[0]))]
        while path:
            top = path[-1]
            node = next(top.slots, None)
            if node is not None:
                w = spend(tree, node, top.residual, top.missing + mass(top.residual))
                if w > 0.0:
                    path.append(_Open(node + 1, 1.0 - w, w * p[node + 1], iter(tree.slots[node + 1])))
                continue
            path.pop()
            left = mass(top.residual)
            # with f = 0 (the root, say) the path must stop here, whatever rounding has left of R
            fails = top.missing / (left + top.missing) if top.missing > 0.0 else 0.0
            stop[top.row] = carry * (1.0 - fails)
            residuals[top.row] = top.residual
            carry *= fails
        return Outcome(stop, lambda row: residuals[row] if bool(residuals[row].any()) else p[row])
