"""THE round of decoding: draft → forward → verify → commit. Flat over requests."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.draft.base import Drafter
from draftgraph.draft.proposal import failing, propose
from draftgraph.draft.terms import Limits
from draftgraph.engine.commit import commit
from draftgraph.request.clock import shared
from draftgraph.request.result import Event
from draftgraph.request.state import Request
from draftgraph.sampling.warp import Prefixes


@torch.inference_mode()
def decode_round(
    requests: Sequence[Request], drafter: Drafter, target: CausalLM, limits: Sequence[Limits]
) -> list[Event]:
    """One round for every request, within its own limits; each emits at least one token. Returns their events, in order.

    What is left of a long text is read as well, in one pass: see `engine.prefill`.
    """
    drafts = []
    for request, bounds in zip(requests, limits, strict=True):
        with request.clock("drafting"):
            drafts.append(propose(drafter, request, bounds))

    feeds = [
        Feed(request.text, request.tokens[len(request.text) :], draft.tree.tokens, draft.tree.parents)
        for request, draft in zip(requests, drafts, strict=True)
    ]
    with shared("target", [request.clock for request in requests], [feed.num_rows for feed in feeds]):
        scored = target.forward(feeds, drafter.taps)

    events = []
    for request, draft, rows in zip(requests, drafts, scored, strict=True):
        clock, tree, logits = request.clock, draft.tree, rows.logits
        with clock("warping"):
            scores = request.warper.scores(logits, Prefixes.of_tree(request.tokens, tree))
            laws = request.warper.shape_round(scores)
        with clock("rule"):
            verdict = request.choice.rule.decide(tree, laws, request.noise, len(request.tokens))
        with clock("warping"):
            request.warper.confirm(logits, scores, request.tokens, tree, verdict.path)
        with clock("drafting"), failing(drafter, "observing"):
            drafter.read(request, rows.taps, verdict.path)
            drafter.verified(request, draft, verdict, scores, laws)
        with clock("commit"):
            target.keep(request.text, verdict.path)
            events.append(commit(request, draft, verdict, logits, scores, laws))

    for request in requests:
        seconds = request.clock.take()
        request.rounds[-1].seconds.update(seconds)
        request.tally.add_seconds(seconds)
    return events
