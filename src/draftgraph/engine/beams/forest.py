"""What is drafted in one round of beams: a tree below every beam, and the layers in which it was drafted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from draftgraph.types import ROOT


@dataclass(frozen=True)
class DraftedLayer:
    """The pairs (beam, token) that were drafted for one layer.

    places  the B places of the layer above that they continue.
    law     f64[B * V] the joint law that they were drawn from; the V pairs of a place stand together.
    pairs   entries of `law`, in the order in which they were drawn; the same one may be drawn again.
    """

    places: Sequence[int]
    law: torch.Tensor
    pairs: Sequence[int]


class Forest:
    """Places are numbered: first the beams themselves, then the drafted nodes, parents before their children.

    texts   token ids of prompt and output of every beam.
    layers  what was drafted, from the beams downwards.
    """

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.texts = texts
        self.layers: list[DraftedLayer] = []
        self._parents = [ROOT] * len(texts)
        self._tokens = [ROOT] * len(texts)
        self._roots = list(range(len(texts)))
        self._children: dict[tuple[int, int], int] = {}

    def add(self, place: int, token: int) -> int:
        """The node that continues a place with a token: a new one, or the one that is there already."""
        node = self._children.setdefault((place, token), len(self._parents))
        if node == len(self._parents):
            self._parents.append(place)
            self._tokens.append(token)
            self._roots.append(self._roots[place])
        return node

    def child(self, place: int, token: int) -> int | None:
        return self._children.get((place, token))

    @property
    def nodes(self) -> range:
        """The places that are no beams."""
        return range(len(self.texts), len(self._parents))

    def parent(self, place: int) -> int:
        return self._parents[place]

    def token(self, node: int) -> int:
        return self._tokens[node]

    def root(self, place: int) -> int:
        """The beam above a place."""
        return self._roots[place]

    def path(self, place: int) -> list[int]:
        """The nodes from below the beam down to a place."""
        nodes: list[int] = []
        while self._parents[place] != ROOT:
            nodes.append(place)
            place = self._parents[place]
        return nodes[::-1]
