"""One round of drafting at a fixed place in a text, and how many tokens it is expected to emit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

import draftgraph as dg
from draftgraph.draft.base import Draft
from draftgraph.draft.budget import limits
from draftgraph.request import Request
from draftgraph.target.base import Rows
from draftgraph.verify.layer import place
from draftgraph.warp import Prefixes

ROOM = 64
"""Output tokens that the round may think it has left, so that the end of the request does not shorten the draft."""


@dataclass(frozen=True)
class OneRound:
    """length  expected tokens of the round (accepted + 1), given the draft. nodes  verified. passes  of the drafter."""

    length: float
    nodes: int
    passes: int


@torch.inference_mode()
def one_round(engine: dg.Engine, ids: Sequence[int], temperature: float, seed: int) -> OneRound:
    """Draft once behind `ids`, a text that nobody generated, and verify."""
    params = dg.SamplingParams(max_new_tokens=ROOM, temperature=temperature, ignore_eos=True, seed=seed)
    request = engine._request(list(ids), params)
    target = engine.target
    request.text = target.open(len(ids) + ROOM)
    engine.drafter.begin(request)
    try:
        draft = engine.drafter.propose(request, limits(engine.config, request, target.context_window, target.device))
        tree = draft.tree
        rows = target.forward([Rows(request.text, request.tokens, tree.tokens, tree.parents)])[0]
        p = request.warper.probabilities(rows, Prefixes.of_tree(request.tokens, tree))
        return OneRound(expected_length(engine.rule, request, draft, p), len(tree), draft.num_passes)
    finally:
        engine.drafter.end(request)
        target.close(request.text)


def expected_length(rule: dg.Rule, request: Request, draft: Draft, p: torch.Tensor) -> float:
    """Expected tokens of the round given the draft; p f[N + 1, V].

    layer, block  1 + Σ w over all nodes: exact, and with less variance than the verdict's own law, because w of a node
                  depends on nothing below it. Block verification is the layer rule on a chain.
    agree         one draw: its drafts know the noise that the verdict is drawn with, so there is no law given the draft.
    other rules   from the law of the verdict: exact.
    """
    tree = draft.tree
    if rule.position_noise:
        return 1.0 + len(rule.verdict(tree, p, request.noise, len(request.tokens)).path)
    if rule.name in ("layer", "block"):
        return 1.0 + sum(1.0 - layer.missing for layer in place(tree, p)[1:])
    stop = rule.outcome(tree, p).stop
    return 1.0 + sum(prob * depth for prob, depth in zip(stop[1:], tree.depths, strict=True))
