"""Drafters that a user might write, right and wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import draftgraph as dg
from draftgraph.draft.terms import Limits


def law_behind(request: Any, text: list[int]) -> torch.Tensor:
    """f64[V]: a law that depends on the last two tokens."""
    generator = torch.Generator().manual_seed(31 * sum(text[-2:]) + text[-1])
    weights = 1.5 * torch.randn(request.vocab_size, generator=generator, dtype=torch.float64)
    return torch.softmax(weights, dim=0).to(request.device)


class Beside(dg.Drafter):
    """At every step the best token FIXED and one draw SAMPLED, which the next step continues."""

    def propose(self, request: Any, limits: Limits) -> dg.Draft:
        graph, node, text = dg.DraftGraph(), dg.ROOT, list(request.tokens)
        for _ in range(min(limits.depth, limits.reach, limits.budget // 2)):
            law = law_behind(request, text)
            graph.fix(node, int(law.argmax()), score=0.5)
            node = self.drawn(graph, node, law, request)
            text.append(graph.tokens[node])
        return dg.Draft(graph)

    def drawn(self, graph: dg.DraftGraph, node: int, law: torch.Tensor, request: Any) -> int:
        return graph.sample(node, law, request.draw)


class Line(dg.Drafter):
    """A chain of draws, and says so."""

    structure = dg.structures.Chain()

    def propose(self, request: Any, limits: Limits) -> dg.Draft:
        graph, node, text = dg.DraftGraph(), dg.ROOT, list(request.tokens)
        for _ in range(min(limits.depth, limits.reach, limits.budget)):
            node = graph.sample(node, law_behind(request, text), request.draw)
            text.append(graph.tokens[node])
        return dg.Draft(graph)


class Same(dg.Drafter):
    """A chain of best tokens, which nobody draws."""

    structure = dg.structures.Chain()
    draws = ("fixed",)

    def propose(self, request: Any, limits: Limits) -> dg.Draft:
        graph, node, text = dg.DraftGraph(), dg.ROOT, list(request.tokens)
        for _ in range(min(limits.depth, limits.reach, limits.budget)):
            node = graph.fix(node, int(law_behind(request, text).argmax()))
            text.append(graph.tokens[node])
        return dg.Draft(graph)


class Independent(dg.Drafter):
    """Two i.i.d. paths, and says so."""

    structure = dg.structures.Paths(2)
    draws = ("sampled",)

    def propose(self, request: Any, limits: Limits) -> dg.Draft:
        graph = dg.DraftGraph(across=False)
        for _ in range(2):
            node, text = dg.ROOT, list(request.tokens)
            for _ in range(min(limits.depth, limits.reach, limits.budget // 2)):
                node = graph.sample(node, law_behind(request, text), request.draw)
                text.append(graph.tokens[node])
        return dg.Draft(graph)


class Making(dg.Drafter):
    """Whatever a function makes of a new graph and a law; a graph or a text that it returns is proposed as it is."""

    def __init__(self, make: Callable[[dg.DraftGraph, torch.Tensor, Any], Any], after: int = 0) -> None:
        self.make, self.after, self.rounds = make, after, 0

    def propose(self, request: Any, limits: Limits) -> Any:
        self.rounds += 1
        graph = dg.DraftGraph()
        if self.rounds <= self.after or limits.reach == 0:
            return dg.Draft(graph)
        made = self.make(graph, law_behind(request, request.tokens), request)
        return made if made is graph or isinstance(made, str) else dg.Draft(graph)
