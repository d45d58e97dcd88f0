"""THE round of decoding: draft → forward → verify → commit. Flat over requests."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from draftgraph.backends.base import CausalLM, Feed, Scored
from draftgraph.budget.shared import share_budget
from draftgraph.draft.base import Drafter
from draftgraph.draft.joined import propose_each
from draftgraph.draft.proposal import failing
from draftgraph.draft.terms import Draft, Limits
from draftgraph.engine.commit import commit
from draftgraph.engine.prefill import Pieces, forward_beside
from draftgraph.errors import attempt
from draftgraph.request.result import Event
from draftgraph.request.state import Request
from draftgraph.sampling.warp import Prefixes
from draftgraph.verification.base import Rule
from draftgraph.verification.onward import OnwardRule


@torch.inference_mode()
def decode_round(
    requests: Sequence[Request], drafter: Drafter, target: CausalLM, limits: Sequence[Limits], pieces: Pieces = ()
) -> list[Event | Exception]:
    """One round for every request, within its own limits or less; each emits at least one token, or fails by itself.

    What is left of a long text is read as well, in one pass, and `pieces` of texts of others: see `engine.prefill`.

    Returns for every request, in order, its event or the error that ends it: close it then. The others go on.
    """
    drafts = propose_each(drafter, requests, share_budget(requests, limits))
    drafted = [(request, draft) for request, draft in zip(requests, drafts, strict=True) if isinstance(draft, Draft)]

    feeds = [
        Feed(request.text, request.tokens[len(request.text) :], draft.tree.tokens, draft.tree.parents)
        for request, draft in drafted
    ]
    heads = [request.choice.rule.head for request, _ in drafted]
    taps = list(dict.fromkeys([*drafter.taps, *(tap for head in heads if head is not None for tap in head.taps)]))
    scored = forward_beside(target, feeds, [request.clock for request, _ in drafted], taps, pieces, drafter)

    happened = iter(
        [
            rows
            if isinstance(rows, Exception)
            else attempt(verify, request, draft, rows, drafter, target, request.choice.rule)
            for (request, draft), rows in zip(drafted, scored, strict=True)
        ]
    )
    return [next(happened) if isinstance(draft, Draft) else draft for draft in drafts]


def verify(
    request: Request, draft: Draft, rows: Scored, drafter: Drafter, target: CausalLM, judge: Rule | OnwardRule
) -> Event:
    """What the target's rows make of one request's draft. judge  decides about it."""
    clock, tree, logits = request.clock, draft.tree, rows.logits
    with clock("warping"):
        scores = request.warper.scores(logits, Prefixes.of_tree(request.tokens, tree))
        laws = request.warper.shape_round(scores)
    with clock("rule"):
        rule = judge.seeing(scores, {name: states[-len(scores) :] for name, states in rows.taps.items()})
        verdict = rule.decide(tree, laws, request.noise, len(request.tokens))
    if request.warper.confirms:
        with clock("warping"):
            request.warper.confirm(logits, scores, request.tokens, tree, verdict.path)
    with clock("drafting"), failing(drafter, "observing"):
        drafter.read(request, rows.taps, verdict.path)
        drafter.verified(request, draft, verdict, scores, laws)
    with clock("commit"):
        target.keep(request.text, verdict.path)
        event = commit(request, draft, verdict, logits, scores, laws)
    request.tally.add_seconds(clock.take())  # which the record of the round holds already
    return event
