"""What a verdict becomes: emitted tokens, text, stop conditions, statistics. The only writer of a request's output."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from draftgraph.draft.terms import Draft
from draftgraph.request.record import RoundRecord
from draftgraph.request.result import Event
from draftgraph.request.state import Request
from draftgraph.sampling.laws import TargetLaws
from draftgraph.sampling.logprobs import LogProbabilities, log_probabilities
from draftgraph.types import FIXED, Verdict
from draftgraph.verification.probabilities import confirmed, draft_probabilities


def commit(
    request: Request, draft: Draft, verdict: Verdict, logits: torch.Tensor, scores: torch.Tensor, laws: TargetLaws
) -> Event:
    """Emit the accepted path and the bonus token, one token at a time, until something ends the text.

    logits  f[N + 1, V] the target's raw rows, for log-probabilities.
    scores  f[N + 1, V] the same rows after everything that depends on the prefix.
    laws    the target's, which the verdict was drawn from.
    """
    tokens = [*(draft.tree.tokens[node] for node in verdict.path), verdict.token]
    length = len(request.tokens)
    known = _known(request, tokens, verdict, logits)
    try:
        told_to_stop = request.params.stop_when and partial(_told_to_stop, request, verdict, logits, scores)
        text, reason = _emit(request, tokens, known, told_to_stop)
    finally:  # `stop_when` may fail; what came before it has been emitted all the same
        emitted = len(request.tokens) - length
        record = _record(request, draft, verdict, laws, length, emitted)
        request.noise.forget_before(len(request.tokens))
    request.pieces.append(text)
    request.finish_reason = reason
    drafted = tuple(i < len(verdict.path) for i in range(emitted))
    logprobs = tuple(known.values[:emitted]) if known.values else None
    best = tuple(known.best[:emitted]) if known.best else None
    return Event(text, tuple(tokens[:emitted]), drafted, reason, record, logprobs, best)


def _known(request: Request, tokens: list[int], verdict: Verdict, logits: torch.Tensor) -> LogProbabilities:
    """What is asked for of the tokens of a round."""
    if not request.params.logprobs:
        return LogProbabilities()
    rows = torch.tensor([0, *(node + 1 for node in verdict.path)], device=logits.device)
    return log_probabilities(logits[rows], tokens, request.params.top_logprobs)


def _told_to_stop(request: Request, verdict: Verdict, logits: torch.Tensor, scores: torch.Tensor, i: int) -> bool:
    """Ask the user's `stop_when` about the round's token i, which has just been appended."""
    assert request.params.stop_when is not None
    row = verdict.path[i - 1] + 1 if i else 0
    return bool(request.params.stop_when(request.tokens[-1], logits[row], scores[row]))


def _emit(
    request: Request, tokens: list[int], known: LogProbabilities, told_to_stop: Callable[[int], bool] | None
) -> tuple[str, str | None]:
    """Append tokens until an end-of-sequence id, a stop string, the grammar, `told_to_stop(i)` or the limit ends the text.

    Returns the text that became certain, and why the request ends, if it does.
    """
    text, reason = "", None
    one_by_one = bool(request.params.stop)
    pending: list[int] = []
    for i, token in enumerate(tokens):
        complete = request.warper.grammar is not None and _completes(request, token)
        if known.values:
            request.logprobs += known.values[i : i + 1]
            request.top_logprobs += known.best[i : i + 1]
        request.tokens.append(token)
        pending.append(token)
        if one_by_one:
            text += request.detokenizer.push(pending)
            pending = []
        told = told_to_stop is not None and told_to_stop(i)  # always asked: it is also told of every token
        if complete or token in request.eos or request.detokenizer.stopped:
            reason = "stop"
        elif request.remaining <= 0:
            reason = "length"
        elif told:
            reason = "stop"
        if reason:
            break
    text += request.detokenizer.push(pending)
    if reason:
        text += request.detokenizer.finish()
    return text, reason


def _completes(request: Request, token: int) -> bool:
    """Tell the grammar of an emitted token. Whether the text is complete with it."""
    with request.clock("warping"):
        return request.warper.accept(token)


def _record(
    request: Request, draft: Draft, verdict: Verdict, laws: TargetLaws, length: int, emitted: int
) -> RoundRecord:
    """Enter a round that began at committed length `length` into the request's statistics."""
    tree = draft.tree
    record = RoundRecord(
        length,
        tree.tokens,
        tree.parents,
        [row != FIXED for row in tree.law_row],
        draft.graph.origins,
        draft.graph.scores,
        draft.graph.drafted_at,
        verdict.path,
        verdict.token,
        emitted,
        draft.num_passes,
        draft.num_evaluations,
        request.clock.seconds,  # which goes on, until the round takes it
        draft.reason,
        verdict.p or confirmed(tree, laws),
        verdict.q or draft_probabilities(tree),
        verdict.masses,
        draft.onward,
        draft.overlapped,
        draft.rival,
    )
    request.rounds.append(record)
    _count(request, draft, verdict, min(len(verdict.path), emitted))
    return record


def _count(request: Request, draft: Draft, verdict: Verdict, accepted: int) -> None:
    tally = request.tally
    tally.rounds += 1
    tally.drafted += len(draft.tree)
    tally.accepted += accepted
    tally.histogram[accepted] += 1
    tally.evaluations += draft.num_evaluations
    tally.passes += draft.num_passes
    tally.merged += draft.graph.num_merged
    graph = draft.graph
    for origin in set(graph.origins):  # Counter.update would take several times as long
        tally.by_source[origin] += graph.origins.count(origin)
    for node in verdict.path[:accepted]:
        tally.by_match[graph.origins[node], graph.matched[node]] += 1
