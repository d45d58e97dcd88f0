"""What the prover's drafts are made of: a draft under construction, and what the slots of one node can be.

Children functions are small drafters for one node: they get the law q of its next token, and every slot that they return
states how its token was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from draftgraph.lab.prove.law import Draw
from draftgraph.types import FIXED, ROOT, TokenTree

Slot = tuple[int, torch.Tensor | None]
"""A token and the law, f[V], that it was drawn from; None if it is FIXED."""
Children = Callable[[torch.Tensor, int, Draw], list[Slot]]
"""children(q, k, draw) -> k slots below a node whose next-token law is q, f[V]."""

_NOTHING = 1e-14
"""Width of an interval that is rounding error, not a chance."""


class Draft:
    """A draft under construction: nodes are added below earlier nodes, each with its law."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.law_row: list[int] = []
        self.laws: list[torch.Tensor] = []
        self.draws: list[int] = []

    def add(self, parent: int, token: int, law: torch.Tensor | None = None) -> int:
        """Add a SAMPLED slot (with the tensor it was drawn from) or a FIXED one; returns its node."""
        row = FIXED if law is None else len(self.laws)
        if law is not None:
            self.laws.append(law)
        return self._append(parent, token, row, len(self.tokens))

    def share(self, parent: int, first: int) -> int:
        """Hang the draw of the node `first` below another parent of the same depth; returns the new node."""
        return self._append(parent, self.tokens[first], self.law_row[first], first)

    def _append(self, parent: int, token: int, row: int, first: int) -> int:
        self.tokens.append(token)
        self.parents.append(parent)
        self.law_row.append(row)
        self.draws.append(first)
        return len(self.tokens) - 1

    def prefix(self, node: int) -> tuple[int, ...]:
        tokens: list[int] = []
        while node != ROOT:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tuple(reversed(tokens))

    def children(self, node: int) -> list[int]:
        return [child for child, parent in enumerate(self.parents) if parent == node]

    def tree(self, across: bool = False) -> TokenTree:
        laws = torch.stack(self.laws) if self.laws else None
        return TokenTree(self.tokens, self.parents, self.law_row, laws, self.draws, across)


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


def systematic(q: torch.Tensor, k: int, draw: Draw) -> list[Slot]:
    """k different tokens by one uniform number u: systematic sampling with probability proportional to size (Madow 1949).

    Token x is in the draft with probability min(1, c q(x)). Tokens of probability 1 are FIXED. The others lie on a line,
    each as long as its probability; drawn are those that cover u, u + 1, u + 2, ... The law of a token given those drawn
    before it is read off the interval that they leave for u.
    """
    chance = inclusions(q, k)
    slots: list[Slot] = [(int(token), None) for token in (chance >= 1.0).nonzero()[:, 0]]
    ends = torch.where(chance >= 1.0, 0.0, chance).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    low, high = 0.0, 1.0
    for j in range(round(float(ends[-1]))):
        widths = (ends - j).clamp(max=high) - (starts - j).clamp(min=low)
        widths = torch.where(widths > _NOTHING, widths, 0.0)
        law = (widths / widths.sum()).to(q.dtype)
        token = draw(law)
        low, high = max(low, float(starts[token]) - j), min(high, float(ends[token]) - j)
        slots.append((token, law))
    return slots


def inclusions(q: torch.Tensor, k: int) -> torch.Tensor:
    """f64[V], the probability min(1, c q(x)) of every token to be among k different ones; it sums to k, or to |support|."""
    chance = (q > 0.0).double()
    k = min(k, int(chance.sum()))
    certain = torch.zeros_like(chance, dtype=torch.bool)
    while k > int(certain.sum()):
        rest = torch.where(certain, 0.0, q.double())
        chance = torch.where(certain, 1.0, rest * ((k - int(certain.sum())) / rest.sum()))
        if not bool((chance[~certain] >= 1.0 - _NOTHING).any()):
            return chance
        certain = certain | (chance >= 1.0 - _NOTHING)
    return certain.double()
