"""What a verdict becomes: emitted tokens, text, stop conditions, statistics. The only writer of a request's output."""

from __future__ import annotations

import torch

from draftgraph.draft.base import Draft
from draftgraph.request import Request
from draftgraph.trace import RoundRecord
from draftgraph.types import FIXED, Event, Verdict


def commit(request: Request, draft: Draft, verdict: Verdict, logits: torch.Tensor) -> Event:
    """Emit the accepted path and the bonus token, one token at a time, until something ends the text.

    logits  f[N + 1, V] the target's raw rows, for log-probabilities.
    """
    tree = draft.tree
    tokens = [*(tree.tokens[node] for node in verdict.path), verdict.token]
    length = len(request.tokens)
    text = _emit(request, tokens)
    emitted = len(request.tokens) - length
    accepted = min(len(verdict.path), emitted)
    if request.params.logprobs:
        rows = torch.tensor([0, *(node + 1 for node in verdict.path)], device=logits.device)[:emitted]
        picked = torch.log_softmax(logits[rows].float(), dim=1)
        request.logprobs += picked[range(emitted), tokens[:emitted]].tolist()
    record = RoundRecord(
        length, tree.tokens, tree.parents, [row != FIXED for row in tree.law_row], draft.graph.origins,
        draft.graph.scores, verdict.path, verdict.token, emitted, draft.num_passes, draft.num_evaluations,
        request.clock.seconds,
    )  # fmt: skip
    request.rounds.append(record)
    _count(request, draft, verdict, accepted)
    drafted = tuple(i < len(verdict.path) for i in range(emitted))
    return Event(text, tuple(tokens[:emitted]), drafted, request.finish_reason, record)


def _emit(request: Request, tokens: list[int]) -> str:
    """Append tokens until an end-of-sequence id, a stop string or the limit; returns the text that became certain."""
    text = ""
    one_by_one = bool(request.params.stop)
    pending: list[int] = []
    for token in tokens:
        request.tokens.append(token)
        pending.append(token)
        if one_by_one:
            text += request.detokenizer.push(pending)
            pending = []
        if token in request.eos or request.detokenizer.stopped:
            request.finish_reason = "stop"
        elif request.remaining <= 0:
            request.finish_reason = "length"
        if request.finish_reason:
            break
    if pending:
        text += request.detokenizer.push(pending)
    if request.finish_reason:
        text += request.detokenizer.finish()
    request.pieces.append(text)
    return text


def _count(request: Request, draft: Draft, verdict: Verdict, accepted: int) -> None:
    tally = request.tally
    tally.rounds += 1
    tally.drafted += len(draft.tree)
    tally.accepted += accepted
    tally.histogram[accepted] += 1
    tally.evaluations += draft.num_evaluations
    tally.passes += draft.num_passes
    tally.merged += draft.graph.num_merged
    tally.by_source.update(draft.graph.origins[node] for node in verdict.path[:accepted])
