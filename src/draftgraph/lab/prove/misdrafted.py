"""Draft programs for the controls: each can state a law that is not the one its tokens were drawn from, or its repair.

One argument tells the mistake from the repair; everything else of the draft is honest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from draftgraph.lab.prove.law import Draw, Laws, Program
from draftgraph.lab.prove.slots import Draft, best, without
from draftgraph.types import ROOT, TokenTree

Reshape = Callable[[torch.Tensor], torch.Tensor]
"""reshape(law) -> another law, f[V]."""


# The law of another prefix.


def merged_token(law_of_copy: str) -> Program:
    """One token d ~ q(.|a) hangs below a and below b; the law that is stated for the copy below b varies."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        a, b = (draft.add(ROOT, token) for token in best(q(()), 2))
        drawn = q(draft.prefix(a))
        d = draw(drawn)
        draft.add(a, d, drawn)
        stated = {"new prefix": q(draft.prefix(b)), "first prefix": drawn, "fixed": None}[law_of_copy]
        if stated is None or float(stated[d]) > 0.0:
            draft.add(b, d, stated)
        return draft.tree()

    return program


# A selection, stated as a sample.


def siblings(drop_duplicates: bool) -> Program:
    """Two draws from q at the root; a second draw that repeats the first is dropped, or kept as a step."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        law = q(())
        first, second = draw(law), draw(law)
        draft.add(ROOT, first, law)
        if second != first or not drop_duplicates:
            draft.add(ROOT, second, law)
        return draft.tree()

    return program


def best_of_two(stated_sampled: bool, depth: int) -> Program:
    """A chain of tokens, each the likelier of two draws from q."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft, node = Draft(), ROOT
        for _ in range(depth):
            law = q(draft.prefix(node))
            token = max(draw(law), draw(law), key=lambda t: float(law[t]))
            node = draft.add(node, token, law if stated_sampled else None)
        return draft.tree()

    return program


def argmax_chain(stated_sampled: bool, depth: int) -> Program:
    """A chain of argmax tokens, stated as draws from q or as FIXED."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft, node = Draft(), ROOT
        for _ in range(depth):
            law = q(draft.prefix(node))
            node = draft.add(node, int(law.argmax()), law if stated_sampled else None)
        return draft.tree()

    return program


def top_two(stated_sampled: bool) -> Program:
    """The two best tokens at the root, stated as draws without replacement from q over these two, or as FIXED."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        law = q(())
        top = best(law, 2)
        head: torch.Tensor | None = torch.zeros_like(law)
        head[top] = law[top] / law[top].sum()  # type: ignore[index]
        for token in top:
            draft.add(ROOT, token, head if stated_sampled else None)
            head = None if head is None else without(head, [token])
        return draft.tree()

    return program


def unreplaced_pair(stated_iid: bool) -> Program:
    """Two tokens drawn without replacement at the root; the second is stated as one more draw from q, or as what it is."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        law = q(())
        first = draw(law)
        draft.add(ROOT, first, law)
        rest = without(law, [first])
        if rest is not None:
            draft.add(ROOT, draw(rest), law if stated_iid else rest)
        return draft.tree()

    return program


# The law before or after it was reshaped.


def reshaped_chain(drawn: Reshape, stated: Reshape, depth: int) -> Program:
    """A SAMPLED chain drawn from one reshaping of q and stated with another."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft, node = Draft(), ROOT
        for _ in range(depth):
            law = q(draft.prefix(node))
            node = draft.add(node, draw(drawn(law)), stated(law))
        return draft.tree()

    return program


def at_temperature(temperature: float) -> Reshape:
    """q at another temperature, for a q at temperature 1."""
    return lambda law: (law ** (1.0 / temperature)) / (law ** (1.0 / temperature)).sum()


def truncated(k: int) -> Reshape:
    """q cut to its k best tokens and renormalised."""

    def cut(law: torch.Tensor) -> torch.Tensor:
        top = law.topk(k)
        return torch.zeros_like(law).scatter(0, top.indices, top.values / top.values.sum())

    return cut


def untouched(law: torch.Tensor) -> torch.Tensor:
    return law


def denoised(steps: int) -> Program:
    """Two slots filled by denoising; each states its marginal as it was when the slot was filled.

    In one step both are drawn at once and independently, so the marginals are the laws. In two steps the second slot is
    filled first; the first slot's recorded law then looks at the token to its right, and the second slot's does not look
    at the token to its left.
    """

    def program(q: Laws, draw: Draw) -> TokenTree:
        first = q(())
        pairs = first[:, None] * torch.stack([q((token,)) for token in range(len(first))])  # f[V, V], the joint law
        second = pairs.sum(0)
        right = draw(second)
        if steps == 2:
            first = pairs[:, right] / second[right]
        draft = Draft()
        draft.add(draft.add(ROOT, draw(first), first), right, second)
        return draft.tree()

    return program


# A shape that looks at deeper tokens.


def late_sibling(looks_at: str) -> Program:
    """A SAMPLED chain a, b beside the best token FIXED with a SAMPLED child; that branch is dropped if b looks good.

    Its repair looks at the root's law instead. (As a leaf the sibling would be harmless under the layer rule: it is
    verified last in its layer, and a leaf takes no part in the placement of deeper layers.)
    """

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        root = q(())
        top = best(root, 1)
        rest = without(root, top)
        if rest is None:
            return draft.tree()
        a = draft.add(ROOT, draw(rest), rest)
        below = q(draft.prefix(a))
        b = draw(below)
        draft.add(a, b, below)
        good = b == int(below.argmax()) if looks_at == "deeper token" else float(root.max()) > 0.6
        if not good:
            sibling = draft.add(ROOT, top[0])
            law = q(draft.prefix(sibling))
            draft.add(sibling, draw(law), law)
        return draft.tree()

    return program
