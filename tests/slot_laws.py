"""Do the slots of a draft program carry their exact conditional laws? Counted by enumeration, no rule involved.

These are the conditions A1 and A2 of docs/layer_rule.md. The draws of a layer are read in the order of `TokenTree.slots`,
its nodes in every order (a rule may take the heaviest first). Given all upper layers and the draws read before it, the
token of a draw must have the law that the slot states. Subtrees without a SAMPLED slot are left out: they may depend on
anything, because no later law is allowed to count on them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from itertools import permutations

import torch

from draftgraph.lab.prove.law import Program, Tables, enumerate_draws
from draftgraph.types import FIXED, TokenTree


def worst_law(program: Program, tables: Tables) -> float:
    """The largest difference between a stated probability and the conditional frequency of the token."""
    tokens: dict[Hashable, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for probability, tree in enumerate_draws(lambda draw: program(tables.drafter, draw)):
        for history, token in readings(tree):
            tokens[history][token] += probability
    worst = 0.0
    for history, counts in tokens.items():
        law, total = history[-1][-1], sum(counts.values())
        worst = max(worst, *(abs(counts[x] / total - stated) for x, stated in enumerate(law)))
    return worst


def readings(tree: TokenTree) -> Iterator[tuple[tuple, int]]:
    """Every draw of a draft as (what was read before it, ending with the slot and the law it states; its token)."""
    live = _live(tree)
    for depth in range(max(tree.depths, default=0)):
        rows = [0] if depth == 0 else [node + 1 for node in live if tree.depths[node] == depth]
        above = _upper(tree, 0, depth, live)
        sampled = [row for row in rows if any(tree.law_row[node] != FIXED for node in tree.children[row])]
        for order in permutations(sampled):
            history: tuple = (depth, above)
            for draw, slot in _draws(tree, order, rows):
                history = (*history, slot)
                yield history, tree.tokens[draw]
                history = (*history, tree.tokens[draw])


def _draws(tree: TokenTree, order: tuple[int, ...], rows: list[int]) -> Iterator[tuple[int, tuple]]:
    """The draws of a layer: (first node, (rows that it hangs below, by their place in the layer, and its law))."""
    seen: set[int] = set()
    for row in order:
        for node in tree.slots[row]:
            draw = node if tree.draws is None else tree.draws[node]
            if tree.law_row[node] == FIXED or draw in seen:
                continue
            seen.add(draw)
            hangs = [n for n in range(len(tree)) if (n if tree.draws is None else tree.draws[n]) == draw]
            yield draw, (tuple(rows.index(tree.parents[n] + 1) for n in hangs), _law(tree, node))


def _upper(tree: TokenTree, row: int, depth: int, live: set[int]) -> tuple:
    """The live nodes below a row, `depth` layers of them, with their tokens and laws."""
    if depth == 0:
        return ()
    return tuple(
        (tree.tokens[node], _law(tree, node), _upper(tree, node + 1, depth - 1, live))
        for node in tree.slots[row]
        if node in live
    )


def _live(tree: TokenTree) -> set[int]:
    """The nodes that are SAMPLED or have a SAMPLED slot somewhere below them."""
    return {node for i, row in enumerate(tree.law_row) if row != FIXED for node in tree.path(i)}


def _law(tree: TokenTree, node: int) -> tuple[float, ...] | None:
    if tree.law_row[node] == FIXED:
        return None
    return tuple(torch.round(tree.laws[tree.law_row[node]], decimals=13).tolist())
