"""One round of drafting at a fixed place in a text, and how many tokens it is expected to emit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

import draftgraph as dg
from draftgraph.backends.base import Feed
from draftgraph.budget.limits import limits
from draftgraph.draft.base import Draft
from draftgraph.request.state import Request
from draftgraph.sampling.warp import Prefixes
from draftgraph.types import TokenTree
from draftgraph.verification.layer import place

ROOM = 64
"""Output tokens that the round may think it has left, so that the end of the request does not shorten the draft."""


@dataclass(frozen=True)
class OneRound:
    """length  expected tokens of the round (accepted + 1), given the draft. nodes  verified. passes  of the drafter."""

    length: float
    nodes: int
    passes: int


@dataclass(frozen=True)
class Drafted:
    """A draft behind a text that nobody generated, and the target's laws p, f[N + 1, V], at its nodes."""

    request: Request
    draft: Draft
    p: torch.Tensor

    @property
    def tree(self) -> TokenTree:
        return self.draft.tree

    def ratios(self) -> list[float]:
        """p(X_i) / q(X_i) along a SAMPLED chain."""
        tree = self.tree
        assert tree.is_chain
        assert tree.laws is not None
        return [float(self.p[i, x]) / float(tree.laws[tree.law_row[i], x]) for i, x in enumerate(tree.tokens)]


@torch.inference_mode()
def draft_at(engine: dg.Engine, ids: Sequence[int], temperature: float, seed: int, fill: bool = False) -> Drafted:
    """Draft once behind `ids` and evaluate the draft. With `fill`, slots that are hardly worth a row are drafted too."""
    params = dg.SamplingParams(max_new_tokens=ROOM, temperature=temperature, ignore_eos=True, seed=seed)
    request = engine._request(list(ids), params)
    target = engine.target
    request.text = target.open(len(ids) + ROOM)
    engine.drafter.begin(request)
    try:
        bounds = limits(engine.config, request, target.context_window)
        draft = engine.drafter.propose(request, replace(bounds, floor=0.0) if fill else bounds)
        tree = draft.tree
        rows = target.forward([Feed(request.text, request.tokens, tree.tokens, tree.parents)])[0]
        return Drafted(request, draft, request.warper.probabilities(rows, Prefixes.of_tree(request.tokens, tree)))
    finally:
        engine.drafter.end(request)
        target.close(request.text)


def one_round(engine: dg.Engine, ids: Sequence[int], temperature: float, seed: int) -> OneRound:
    """Draft once behind `ids`, and verify with the engine's rule."""
    drafted = draft_at(engine, ids, temperature, seed)
    return OneRound(expected_length(drafted.request.choice.rule, drafted), len(drafted.tree), drafted.draft.num_passes)


def expected_length(rule: dg.Rule, drafted: Drafted) -> float:
    """Expected tokens of the round given the draft.

    layer, block  1 + Σ w over all nodes: exact, and with less variance than the verdict's own law, because w of a node
                  depends on nothing below it. Block verification is the layer rule on a chain.
    agree         one draw: its drafts know the noise that the verdict is drawn with, so there is no law given the draft.
    other rules   from the law of the verdict: exact.
    """
    tree, p, request = drafted.tree, drafted.p, drafted.request
    if rule.position_noise:
        return 1.0 + len(rule.verdict(tree, p, request.noise, len(request.tokens)).path)
    if rule.name in ("layer", "block"):
        return 1.0 + sum(1.0 - layer.missing for layer in place(tree, p)[1:])
    rule.check(tree)
    stop = rule.outcome(tree, p).stop
    return 1.0 + sum(float(prob) * depth for prob, depth in zip(stop[1:], tree.depths, strict=True))
