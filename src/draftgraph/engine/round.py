"""THE round of decoding: draft → forward → verify → commit. Flat over requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.draft.base import Limits
from draftgraph.draft.drafter import Drafter
from draftgraph.draft.proposal import failing, propose
from draftgraph.engine.commit import commit
from draftgraph.request.result import Event
from draftgraph.request.state import Request
from draftgraph.request.stats import Clock
from draftgraph.sampling.warp import Prefixes


@torch.inference_mode()
def decode_round(
    requests: Sequence[Request],
    drafter: Drafter,
    target: CausalLM,
    limits: Callable[[Request], Limits],
) -> list[Event]:
    """One round for every request; each emits at least one token. Returns their events, in order."""
    clock = Clock()
    for request in requests:
        request.clock = clock
    drafts = [propose(drafter, request, limits(request)) for request in requests]
    trees = [draft.tree for draft in drafts]
    clock.lap("drafting")

    logits = target.forward(
        [
            Feed(request.text, request.tokens[len(request.text) :], tree.tokens, tree.parents)
            for request, tree in zip(requests, trees, strict=True)
        ]
    )
    clock.lap("target")

    events = []
    for request, draft, tree, rows in zip(requests, drafts, trees, logits, strict=True):
        scores = request.warper.scores(rows, Prefixes.of_tree(request.tokens, tree))
        p = request.warper.shape_round(scores)
        clock.lap("warping")
        verdict = request.choice.rule.verdict(tree, p, request.noise, len(request.tokens))
        clock.lap("rule")
        request.warper.confirm(rows, scores, request.tokens, tree, verdict.path)
        clock.lap("warping")
        target.keep(request.text, verdict.path)
        with failing(drafter, "observing"):
            drafter.observe(request, draft, verdict, scores, p)
        clock.lap("drafting")
        events.append(commit(request, draft, verdict, rows, scores, p))
        clock.lap("commit")
    for request in requests:
        request.tally.add_seconds(clock)
    return events
