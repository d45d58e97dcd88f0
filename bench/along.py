"""The engine's own rounds along a text that is given: what every draft would have been worth there, source by source.

Two ways to draft write different texts above temperature 0, which hides a small difference between them behind a large
noise. So the text is fixed beforehand and every verdict is replaced by it: a round accepts the nodes that the text goes
through, the next round starts behind them. What is reported is not that match but its expectation under the engine's rule
given the draft (Σ w over the nodes), which is exact and less noisy. Everything else is the engine: its drafter, what it learns
between rounds, its limits. At temperature 0, along the target's own greedy text, nothing is replaced at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from transformers import PreTrainedModel

import draftgraph as dg
from bench.recurrence import Recurring, recurring
from draftgraph.draft import model
from draftgraph.draft.base import Draft, Limits
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.model import ModelDrafter
from draftgraph.request.state import Request
from draftgraph.sampling.rng import Noise
from draftgraph.types import ROOT, TokenTree, Verdict
from draftgraph.verification.layer import LayerRule, place
from draftgraph.verification.walk import WalkRule

LONGEST = 4
"""Match lengths from here on are counted together, as the engine's discounts are."""
TAIL = 16
"""Tokens at the end of a text behind which no round starts: what it accepts must not be cut short."""
ROOM = 64
"""Output tokens that a request may think it has left beyond its text, so that its end does not shorten drafts."""


@dataclass(frozen=True)
class Round:
    """accepted  expected accepted tokens by (source, match length); the length is 0 for what the drafter proposed itself.

    nodes  verified, merged  of them copies. evaluations, passes  of the drafter. recurring  n-grams met again in the draft.
    """

    accepted: dict[tuple[str, int], float]
    nodes: int
    merged: int
    evaluations: int
    passes: int
    recurring: Recurring

    @property
    def length(self) -> float:
        """Expected accepted tokens of the round, the bonus token not counted."""
        return sum(self.accepted.values())


class _Following:
    """A rule's verdict, replaced by the way that `text` takes."""

    text: Sequence[int] = ()

    def verdict(self, tree: TokenTree, p: torch.Tensor, noise: Noise, length: int) -> Verdict:
        path: list[int] = []
        node = ROOT
        for token in self.text[length:-1]:
            following = [child for child in tree.children[node + 1] if tree.tokens[child] == token]
            if not following:
                break
            node = following[0]
            path.append(node)
        return Verdict(tuple(path), self.text[length + len(path)])


class Sampling(_Following, LayerRule):
    """The layer rule on SAMPLED and FIXED slots, along a text."""


class Walking(_Following, WalkRule):
    """The target walk, for which every slot is FIXED, along a text."""


class Watched(ModelDrafter):
    """The drafter of an engine; notes what every round is worth before the drafter learns from it.

    fill  spend the whole budget, also on slots and copies that the engine would not find worth a row.
    """

    rounds: list[Round]
    fill = False

    def propose(self, request: Request, limits: Limits) -> Draft:
        if not self.fill:
            return super().propose(request, limits)
        with mock.patch.object(model, "MIN_COPY_SCORE", 0.0):
            return super().propose(request, replace(limits, floor=0.0))

    def observe(self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, p: torch.Tensor) -> None:
        self.rounds.append(
            Round(
                by_source(draft.graph, weights(draft.tree, p)),
                len(draft.tree),
                draft.graph.num_merged,
                draft.num_evaluations,
                draft.num_passes,
                recurring(draft.tree),
            )
        )
        super().observe(request, draft, verdict, scores, p)


def weights(tree: TokenTree, p: torch.Tensor) -> list[float]:
    """Probability of every node to be accepted, given the draft and the target's laws p, f[N + 1, V]."""
    placed = {row: weight for layer in place(tree, p) for row, weight in layer.weights.items()}
    return [placed.get(node + 1, 0.0) for node in range(len(tree))]


def by_source(graph: DraftGraph, weights: Sequence[float]) -> dict[tuple[str, int], float]:
    """Accepted mass by origin of the nodes and length of the match that their edge was found by."""
    mass: Counter[tuple[str, int]] = Counter()
    for origin, length, weight in zip(graph.origins, graph.matched, weights, strict=True):
        mass[origin, min(length, LONGEST)] += weight
    return dict(mass)


class Follower:
    """An engine that is led along texts, one after the other (what it keeps between requests, it keeps)."""

    def __init__(
        self,
        target: PreTrainedModel,
        drafter: PreTrainedModel,
        options: dict[str, Any],
        sampled: bool = True,
        fill: bool = False,
    ) -> None:
        """options  fields of `draftgraph.Config`. sampled  False: every slot FIXED, also above temperature 0.

        fill  as for `Watched`.
        """
        self.rule = Sampling() if sampled else Walking()
        self.engine = dg.Engine.from_pretrained(target, draft_model=drafter, rule=self.rule, **options)
        made = self.engine.drafter
        assert isinstance(made, ModelDrafter)
        self.engine.drafter = self.watched = Watched(made.model, made.config, made.vocab_size)
        self.watched.fill = fill

    def follow(self, text: Sequence[int], start: int, temperature: float, seed: int, rounds: int) -> list[Round]:
        """The first `rounds` that start behind text[:start] and before the last TAIL tokens, which are there to be drafted."""
        self.rule.text = text
        self.watched.rounds = []
        params = dg.SamplingParams(
            max_new_tokens=len(text) - start + ROOM, temperature=temperature, ignore_eos=True, seed=seed
        )
        stream = self.engine.stream(list(text[:start]), params)
        for event in stream:
            assert event.round is not None
            ended = event.round.length + event.round.emitted >= len(text) - TAIL
            if ended or len(self.watched.rounds) == rounds:
                break
        stream.close()
        return self.watched.rounds
