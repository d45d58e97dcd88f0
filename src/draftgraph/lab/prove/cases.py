"""Draft programs for the prover: structures by kinds of children (`slots.py`).

Each program is a small drafter: it asks q for laws and `draw` for random tokens, and every slot states its law. All
of them satisfy the conditions of docs/layer_rule.md (A1: the shape looks at upper layers only; A2: the law of a slot is
its exact conditional law); the drafts that do not are in `controls.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from draftgraph.lab.prove.law import Draw, Laws, Program
from draftgraph.lab.prove.slots import (
    Children,
    Draft,
    Slot,
    best,
    fixed,
    hybrid,
    repeated,
    replaced,
    spine,
    systematic,
    unreplaced,
    without,
)
from draftgraph.types import ROOT, TokenTree

Width = Callable[[int, tuple[int, ...], int], int]
"""width(depth, prefix, index) -> number of slots below the node that is number `index` of its layer."""


# Trees: every branch grows by itself.


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


def delayed(children: Children, depth: int) -> Program:
    """A chain that branches at its last token (Delayed Tree Expansion, arXiv 2602.16994)."""
    return grow(by_depth(*[1] * (depth - 1), 2), children, depth)


def paths(*lengths: int) -> Program:
    """Independent SAMPLED paths of these lengths that part at the root. Two of them may draw the same tokens."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        for length in lengths:
            node = ROOT
            for _ in range(length):
                law = q(draft.prefix(node))
                node = draft.add(node, draw(law), law)
        return draft.tree()

    return program


def comb(depth: int) -> Program:
    """A SAMPLED path whose nodes have FIXED leaves beside it, more of them where q is unsure (CaPE, arXiv 2402.02082)."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft, node = Draft(), ROOT
        for _ in range(depth):
            law = q(draft.prefix(node))
            token = draw(law)
            teeth = sum(float(law.max()) < sure for sure in (0.5, 0.8))
            others = [other for other in best(law, teeth + 1) if other != token][:teeth]
            parent, node = node, draft.add(node, token, law)
            for other in others:
                draft.add(parent, other)
        return draft.tree()

    return program


# Branches that know of each other: merges, one draw below several parents, growth by level.


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
        return draft.tree(across=True)

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
        return draft.tree(across=True)

    return program


def shared(parents: Children, k: int, own: bool, depth: int) -> Program:
    """k parents below the root; every deeper layer is one draw that hangs, with its law, below all nodes of the layer.

    own  the first parent has a SAMPLED leaf beside the draw (drawn after it, without its token), the others a FIXED one.
    """

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        layer = [draft.add(ROOT, token, law) for token, law in parents(q(()), k, draw)] if depth else []
        for _ in range(depth - 1):
            law = q(draft.prefix(layer[0]))
            first = draft.add(layer[0], draw(law), law)
            below = [first, *(draft.share(node, first) for node in layer[1:])]
            if own:
                rest = without(q(draft.prefix(layer[0])), [draft.tokens[first]])
                if rest is not None:
                    draft.add(layer[0], draw(rest), rest)
                for node in layer[1:]:
                    draft.add(node, best(q(draft.prefix(node)), 1)[0])
            layer = below
        return draft.tree()

    return program


def levels(children: Children, depth: int) -> Program:
    """Growth level by level: the likeliest node of a layer has two slots, the next one, the others none."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        layer, mass = [ROOT], {ROOT: 1.0}
        for _ in range(depth):
            ranked = sorted(layer, key=lambda node: -mass[node])
            layer = []
            for node, width in zip(ranked, (2, 1), strict=False):
                law = q(draft.prefix(node))
                for token, drawn in children(law, width, draw):
                    layer.append(draft.add(node, token, drawn))
                    mass[layer[-1]] = mass[node] * float(law[token])
        return draft.tree(across=True)

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


def _shared(laws: str, parents: Children, k: int = 2, own: bool = False) -> Case:
    return Case("shared draws", laws, lambda depth: shared(parents, k, own, depth))


CASES: tuple[Case, ...] = (
    _case("chain", "sampled", by_depth(), replaced),
    _case("chain", "fixed", by_depth(), fixed),
    Case("chain", "sampled, fixed, sampled", lambda depth: alternating(True, depth)),
    Case("chain", "fixed, sampled, fixed", lambda depth: alternating(False, depth)),
    Case("2 paths", "with replacement", lambda depth: paths(depth, depth)),
    Case("2 paths, one shorter", "with replacement", lambda depth: paths(depth - 1, depth)),
    # two thirds as deep, so that there are as many drafts as of two paths
    Case("3 paths", "with replacement", lambda depth: paths(*[2 * depth // 3] * 3)),
    _case("tree 2,2,1", "fixed", by_depth(2, 2), fixed),
    _case("tree 2,2,1", "hybrid", by_depth(2, 2), hybrid),
    _case("tree 3,1,1", "hybrid", by_depth(3), hybrid),
    _case("tree 2,1,1", "sampled from all, fixed", by_depth(2), spine),
    _case("tree 2,1,1", "without replacement", by_depth(2), unreplaced),
    _case("tree 2,1,1", "systematic", by_depth(2), systematic),
    _case("tree 1,2,1", "without replacement", by_depth(1, 2), unreplaced),
    _case("tree 1,2,1", "systematic", by_depth(1, 2), systematic),
    Case("delayed tree", "with replacement", lambda depth: delayed(replaced, depth)),
    Case("delayed tree", "hybrid", lambda depth: delayed(hybrid, depth)),
    _case("tree 2,1", "duplicates", by_depth(2, 1, 0), repeated),
    Case("comb", "sampled, fixed leaves", comb),
    _case("uneven tree", "hybrid", uneven, hybrid),
    _case("uneven tree", "without replacement", uneven, unreplaced),
    _case("adapted tree", "hybrid", adapted, hybrid),
    _case("adapted tree", "fixed", adapted, fixed),
    Case("levels", "hybrid", lambda depth: levels(hybrid, depth)),
    Case("merged graph", "hybrid, copies fixed", merged),
    Case("merged graph", "sampled once per layer, copies fixed", copied),
    _shared("once for two fixed parents", fixed),
    _shared("once for three hybrid parents", hybrid, 3),
    _shared("once for two sampled parents", replaced),
    _shared("once, beside slots of their own", hybrid, own=True),
)
