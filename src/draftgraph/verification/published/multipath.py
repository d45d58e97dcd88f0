"""Greedy multi-path block verification: the best of K i.i.d. paths, verified as one chain (arXiv 2602.16961).

The tokens after a prefix are put in order, here by p / q, largest first; the path that comes first lexicographically is
selected. Let A(x) be the q-mass of the prefixes that come before a prefix x of the same length, and Q(x) its own. The
selected path begins with x if no path comes before x and not all come after it:

    Q_best(x) = (1 - A)^K - (1 - A - Q)^K,

so the selected path is one draw from the conditionals of Q_best, and block verification with them is lossless. The order
may look at the rows of the prefix only, and Q_best reads rows of the selected path only. The other paths are discarded.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from draftgraph.errors import DraftError
from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import Accepts, Rule
from draftgraph.verification.block import BlockRule


class MultipathRule(Rule):
    name: ClassVar[str] = "multipath"
    source: ClassVar[str] = "greedy multi-path block verification, arXiv 2602.16961"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(frozenset({"sampled"}), frozenset({"paths"}))

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        self.check(tree)
        path, laws = _select(tree, p)
        rows = [0, *(node + 1 for node in path)]
        tokens = [tree.tokens[node] for node in path]
        chain = TokenTree(tokens, range(-1, len(path) - 1), range(len(path)), torch.stack(laws) if laws else None)
        block = BlockRule().outcome(chain, p[rows])
        stop = [0.0] * (len(tree) + 1)
        for row, probability in zip(rows, block.stop, strict=True):
            stop[row] = probability
        return Outcome(stop, lambda row: block.bonus(rows.index(row)))

    def check(self, tree: TokenTree) -> None:
        """Also refuse paths that cannot be i.i.d.: of several lengths, or with two laws after one prefix."""
        super().check(tree)
        paths = _paths(tree)
        lengths = sorted({len(path) for path in paths})
        if len(lengths) > 1:
            raise DraftError(
                f"rule {self.name!r} verifies paths of one length, drawn alike; these have {lengths[0]} to {lengths[-1]} "
                "tokens. Draft them to one depth, or use rule 'traversal' or 'layer'"
            )
        first: dict[tuple[int, ...], int] = {}
        for path in paths:
            for depth, node in enumerate(path):
                other = first.setdefault(tuple(tree.tokens[above] for above in path[:depth]), node)
                if not same_law(tree, node, other):
                    raise DraftError(
                        f"rule {self.name!r} verifies paths that are drawn alike; nodes {other} and {node} follow the same "
                        "tokens but have different laws. Draw both from one law, or use rule 'traversal' or 'layer'"
                    )


def same_law(tree: TokenTree, node: int, other: int) -> bool:
    """Whether two SAMPLED slots have equal laws."""
    a, b = tree.law_row[node], tree.law_row[other]
    return a == b or torch.equal(tree.laws[a], tree.laws[b])  # type: ignore[index]  # SAMPLED slots have laws


def _paths(tree: TokenTree) -> list[list[int]]:
    """The nodes of every path, from a child of the root to its leaf."""
    return [tree.path(leaf) for leaf in range(len(tree)) if not tree.children[leaf + 1]]


def _select(tree: TokenTree, p: torch.Tensor) -> tuple[list[int], list[torch.Tensor]]:
    """The path that comes first, and the conditionals of Q_best along it, f64[V] each."""
    paths = _paths(tree)
    k = len(paths)
    laws: list[torch.Tensor] = []
    share, rest = 1.0, 0.0  # t = Q / (1 - A) of the prefix, and 1 - t, which never comes from a subtraction
    for depth in range(len(paths[0]) if paths else 0):
        node = paths[0][depth]  # all paths that are left agree up to here, so this row is a function of the prefix
        q = tree.laws[tree.law_row[node]].double()  # type: ignore[index]  # all slots are SAMPLED
        odds = p[tree.parents[node] + 1].double() / q
        order = torch.where(q > 0.0, odds, -1.0).argsort(descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        from_here = q[order].flip(0).cumsum(0).flip(0)  # q-mass of a token and of those that come after it
        after = torch.cat([from_here[1:], from_here.new_zeros(1)])
        high, low = rest + share * from_here[rank], rest + share * after[rank]  # 1 - A and 1 - A - Q below the prefix
        laws.append(q * _powers(high, low, k) / sum(rest**j for j in range(k)))
        token = min((tree.tokens[path[depth]] for path in paths), key=lambda token: int(rank[token]))
        share, rest = share * float(q[token] / high[token]), float(low[token] / high[token])
        paths = [path for path in paths if tree.tokens[path[depth]] == token]
    return paths[0] if paths else [], laws


def _powers(a: torch.Tensor, b: torch.Tensor, k: int) -> torch.Tensor:
    """(a^k - b^k) / (a - b) as a sum of positive terms; a difference of powers would cancel."""
    total, power = torch.ones_like(a), torch.ones_like(a)
    for _ in range(k - 1):
        power = power * b
        total = a * total + power
    return total
