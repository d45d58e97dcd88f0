"""One round of an engine at a fixed place in a text, and how many tokens it is expected to emit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import draftgraph as dg
from draftgraph.draft.model import ModelDrafter
from draftgraph.draft.terms import Draft, Limits
from draftgraph.lab.pair import Pair
from draftgraph.request.state import Request
from draftgraph.sampling.laws import TargetLaws
from draftgraph.types import TokenTree, Verdict
from draftgraph.verification.layer import place

ROOM = 64
"""Output tokens that the round may think it has left, so that the end of the request does not shorten the draft."""


@dataclass(frozen=True)
class Drafted:
    """What a round drafted, and how it was verified.

    scores   f[N + 1, V], the target's logits at its nodes, before the temperature.
    p        f[N + 1, V], the target's laws there.
    verdict  of the engine's rule.
    """

    draft: Draft
    scores: torch.Tensor
    p: torch.Tensor
    verdict: Verdict

    @property
    def tree(self) -> TokenTree:
        return self.draft.tree


class Witness(ModelDrafter):
    """Keeps what its last round drafted, and learns nothing from it.

    fill  also draft slots that are hardly worth a row, until the budget is spent: a baseline of equal size.
    """

    fill = False
    seen: Drafted

    def propose(self, request: Request, limits: Limits) -> Draft:
        return super().propose(request, replace(limits, floor=0.0) if self.fill else limits)

    def verified(
        self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, laws: TargetLaws
    ) -> None:
        self.seen = Drafted(draft, scores, laws.p, verdict)


def engine_with(kind: type[ModelDrafter], pair: Pair, options: dict[str, Any]) -> dg.Engine:
    """The engine that `options` of `Config` ask for, with another kind of drafter around the same model."""
    engine = pair.engine(**options)
    drafter = engine.drafter
    engine.drafter = kind(drafter.model, drafter.vocab_size, drafter.edges)
    return engine


def draft_at(engine: dg.Engine, ids: Sequence[int], temperature: float, seed: int) -> Drafted:
    """One round behind `ids` of an engine whose drafter is a Witness."""
    params = dg.SamplingParams(max_new_tokens=ROOM, temperature=temperature, ignore_eos=True, seed=seed)
    stream = engine.stream(list(ids), params)
    next(stream)
    stream.close()
    return engine.drafter.seen


def expected_length(rule: dg.Rule, drafted: Drafted) -> float:
    """Expected tokens of the round given the draft.

    layer, block  1 + Σ w over all nodes: exact, and with less variance than the verdict's own law, because w of a node
                  depends on nothing below it. Block verification is the layer rule on a chain.
    agree         one draw: its drafts know the noise that the verdict is drawn with, so there is no law given the draft.
    other rules   from the law of the verdict: exact. Raises DraftError for drafts that the rule does not verify.
    """
    tree, p = drafted.tree, drafted.p
    if rule.position_noise:
        return 1.0 + len(drafted.verdict.path)
    if rule.name in ("layer", "block"):
        return 1.0 + sum(1.0 - layer.missing for layer in place(tree, p)[0][1:])
    rule.check(tree)
    stop = rule.outcome(tree, p).stop
    return 1.0 + sum(float(prob) * depth for prob, depth in zip(stop[1:], tree.depths, strict=True))
