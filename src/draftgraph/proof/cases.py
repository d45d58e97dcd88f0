"""Draft programs for the prover: structures (chain, tree, uneven, adapted, merged) by kinds of children.

Each program is a small drafter: it asks q for laws and `draw` for random tokens, and every slot states its law. All
of them satisfy the conditions of docs/layer_rule.md (A1: the shape looks at upper layers only; A2: the law of a slot is
its exact conditional law); the drafts that do not are in `controls.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from draftgraph.proof.law import Draw, Laws, Program
from draftgraph.types import FIXED, ROOT, TokenTree

Slot = tuple[int, torch.Tensor | None]
"""A token and the law, f[V], that it was drawn from; None if it is FIXED."""
Children = Callable[[torch.Tensor, int, Draw], list[Slot]]
"""children(q, k, draw) -> k slots below a node whose next-token law is q, f[V]."""
Width = Callable[[int, tuple[int, ...], int], int]
"""width(depth, prefix, index) -> number of slots below the node that is number `index` of its layer."""


class Draft:
    """A draft under construction: nodes are added below earlier nodes, each with its law."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.law_row: list[int] = []
        self.laws: list[torch.Tensor] = []

    def add(self, parent: int, token: int, law: torch.Tensor | None = None) -> int:
        """Add a SAMPLED slot (with the tensor it was drawn from) or a FIXED one; returns its node."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.law_row.append(FIXED if law is None else len(self.laws))
        if law is not None:
            self.laws.append(law)
        return len(self.tokens) - 1

    def prefix(self, node: int) -> tuple[int, ...]:
        tokens: list[int] = []
        while node != ROOT:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tuple(reversed(tokens))

    def children(self, node: int) -> list[int]:
        return [child for child, parent in enumerate(self.parents) if parent == node]

    def tree(self) -> TokenTree:
        return TokenTree(self.tokens, self.parents, self.law_row, torch.stack(self.laws) if self.laws else None)


# Children: what the slots of one node are.


def best(q: torch.Tensor, k: int) -> list[int]:
    """The k tokens with the largest q, f[V]."""
    return [int(token) for token in q.argsort(descending=True, stable=True)[:k]]


def without(q: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor | None:
    """q, f[V], without some tokens, renormalised; None if nothing is left."""
    rest = q.clone()
    rest[list(tokens)] = 0.0
    mass = rest.sum()
    return rest / mass if float(mass) > 0.0 else None


def fixed(q: torch.Tensor, k: int, draw: Draw) -> list[Slot]:
    """The k best tokens, FIXED."""
    return [(token, None) for token in best(q, k)]


def hybrid(q: torch.Tensor, k: int, draw: Draw) -> list[Slot]:
    """k - 1 best tokens FIXED and one SAMPLED from the rest (one more FIXED if q has no mass left)."""
    top = best(q, k - 1)
    rest = without(q, top)
    if k == 0 or rest is None:
        return fixed(q, k, draw)
    return [(token, None) for token in top] + [(draw(rest), rest)]


def spine(q: torch.Tensor, k: int, draw: Draw) -> list[Slot]:
    """One SAMPLED from the whole of q and k - 1 best tokens FIXED, which may repeat it."""
    return [*fixed(q, k - 1, draw), (draw(q), q)] if k else []


def replaced(q: torch.Tensor, k: int, draw: Draw) -> list[Slot]:
    """k SAMPLED with replacement; duplicates stay in the draft."""
    return [(draw(q), q) for _ in range(k)]


def unreplaced(q: torch.Tensor, k: int, draw: Draw) -> list[Slot]:
    """Up to k SAMPLED without replacement: the law of each is q without the tokens drawn before it."""
    slots: list[Slot] = []
    while len(slots) < k and (law := without(q, [token for token, _ in slots])) is not None:
        slots.append((draw(law), law))
    return slots


def repeated(q: torch.Tensor, k: int, draw: Draw) -> list[Slot]:
    """One SAMPLED and its own token FIXED again; the best token FIXED twice."""
    if k == 0:
        return []
    token = draw(q)
    top = best(q, 1)[0]
    return [(token, q), (token, None), (top, None), (top, None)][: 2 * k]


# Structures: which nodes have how many slots.


def grow(width: Width, children: Children, depth: int) -> Program:
    """Grow a tree level by level, as a batched drafter does."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        return grown(q, draw, width, children, depth).tree()

    return program


def grown(q: Laws, draw: Draw, width: Width, children: Children, depth: int) -> Draft:
    draft = Draft()
    layer = [ROOT]
    for d in range(depth):
        nodes: list[int] = []
        for index, node in enumerate(layer):
            prefix = draft.prefix(node)
            slots = children(q(prefix), width(d, prefix, index), draw)
            nodes += [draft.add(node, token, law) for token, law in slots]
        layer = nodes
    return draft


def by_depth(*widths: int) -> Width:
    """The same number of slots below every node of a depth; one below the depths that are not named."""
    return lambda depth, prefix, index: widths[depth] if depth < len(widths) else 1


def uneven(depth: int, prefix: tuple[int, ...], index: int) -> int:
    """The first branch is deeper and wider than the others, which end after one more token."""
    if depth == 0:
        return 2
    return (2 if depth == 1 else 1) if index == 0 else int(depth == 1)


def adapted(depth: int, prefix: tuple[int, ...], index: int) -> int:
    """The number of slots looks at the tokens above: 2, 1 or 0 of them."""
    return 2 if depth == 0 else (1 + sum(prefix) + depth) % 3


def mixed(first_sampled: bool) -> Children:
    """A chain that alternates SAMPLED and FIXED slots, by the parity of its calls."""
    calls = [first_sampled]

    def children(q: torch.Tensor, k: int, draw: Draw) -> list[Slot]:
        sampled = calls[0]
        calls[0] = not sampled
        return spine(q, k, draw) if sampled else fixed(q, k, draw)

    return children


def alternating(first_sampled: bool, depth: int) -> Program:
    return lambda q, draw: grown(q, draw, by_depth(), mixed(first_sampled), depth).tree()


def merged(depth: int) -> Program:
    """A draft graph, unrolled: copies hang FIXED below the drafted depth, where a leaf repeats a drafted token."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = grown(q, draw, by_depth(2), hybrid, depth - 1)
        drafted = len(draft.tokens)
        for leaf in [node for node in range(drafted) if len(draft.prefix(node)) == depth - 1]:
            for node in range(drafted):
                if draft.tokens[node] == draft.tokens[leaf]:
                    for child in [c for c in draft.children(node) if c < drafted]:
                        draft.add(leaf, draft.tokens[child])
        return draft.tree()

    return program


def copied(depth: int) -> Program:
    """Each layer is drawn once, below its first node, and copied FIXED below the other nodes of that layer."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        layer = [draft.add(ROOT, token) for token in best(q(()), 2)] if depth else []
        for _ in range(depth - 1):
            law = q(draft.prefix(layer[0]))
            token = draw(law)
            layer = [draft.add(node, token, law if i == 0 else None) for i, node in enumerate(layer)]
        return draft.tree()

    return program


@dataclass(frozen=True)
class Case:
    """A draft program by name.

    structure  its shape, e.g. "tree 2,2,1".
    laws       what its slots are, e.g. "hybrid".
    program    program(depth) -> the program that drafts `depth` tokens deep.
    """

    structure: str
    laws: str
    program: Callable[[int], Program]


def _case(structure: str, laws: str, width: Width, children: Children) -> Case:
    return Case(structure, laws, lambda depth: grow(width, children, depth))


CASES: tuple[Case, ...] = (
    _case("chain", "sampled", by_depth(), replaced),
    _case("chain", "fixed", by_depth(), fixed),
    Case("chain", "sampled, fixed, sampled", lambda depth: alternating(True, depth)),
    Case("chain", "fixed, sampled, fixed", lambda depth: alternating(False, depth)),
    _case("tree 2,2,1", "fixed", by_depth(2, 2), fixed),
    _case("tree 2,2,1", "hybrid", by_depth(2, 2), hybrid),
    _case("tree 3,1,1", "hybrid", by_depth(3), hybrid),
    _case("tree 2,1,1", "sampled from all, fixed", by_depth(2), spine),
    _case("tree 2,1,1", "with replacement", by_depth(2), replaced),
    _case("tree 2,1,1", "without replacement", by_depth(2), unreplaced),
    _case("tree 1,2,1", "without replacement", by_depth(1, 2), unreplaced),
    _case("tree 2,1", "duplicates", by_depth(2, 1, 0), repeated),
    _case("uneven tree", "hybrid", uneven, hybrid),
    _case("uneven tree", "without replacement", uneven, unreplaced),
    _case("adapted tree", "hybrid", adapted, hybrid),
    _case("adapted tree", "fixed", adapted, fixed),
    Case("merged graph", "hybrid, copies fixed", merged),
    Case("merged graph", "sampled once per layer, copies fixed", copied),
)
