"""Drafts beside texts that a target has written already: no model runs, and what is accepted is what the target said.

A draft without SAMPLED slots is accepted as far as it agrees with the target's text, at every temperature. So recorded texts tell
tokens per call. Rows of the target are not recorded: drafters that copy them cannot be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from draftgraph.draft.base import Drafter
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.proposal import propose
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.laws import TargetLaws
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import Noise
from draftgraph.sampling.warp import Warper
from draftgraph.structures import Graph
from draftgraph.types import ROOT, Verdict
from draftgraph.verification.registry import get_rule

NO_ROWS = torch.zeros(1)


@dataclass(frozen=True)
class Recorded:
    """A prompt and what a target has answered, in token ids."""

    prompt: Sequence[int]
    answer: Sequence[int]


def rounds_of(drafter: Drafter, text: Recorded, budget: int, vocab: int) -> int:
    """Target calls that an answer takes with drafts of so many nodes."""
    request = _request(text, vocab)
    drafter.begin(request)
    done, rounds = 0, 0
    while done < len(text.answer):
        limits = Graph().limits(budget, None, len(text.answer) - done - 1)
        draft = propose(drafter, request, limits)
        verdict = agreeing(draft.graph, text.answer[done:])
        rows = NO_ROWS.expand(len(draft.tree) + 1, 1)
        drafter.verified(request, draft, verdict, rows, TargetLaws(lambda: NO_ROWS))
        request.tokens += text.answer[done : done + len(verdict.path) + 1]
        done, rounds = len(request.tokens) - len(text.prompt), rounds + 1
    drafter.end(request)
    return rounds


def agreeing(graph: DraftGraph, answer: Sequence[int]) -> Verdict:
    """The longest path of a draft that the answer goes along, and the token behind it."""
    nodes = {slot: node for node, slot in enumerate(zip(graph.parents, graph.tokens, strict=True))}
    path: list[int] = []
    at = ROOT
    for token in answer[:-1]:
        node = nodes.get((at, token))
        if node is None:
            break
        path.append(node)
        at = node
    return Verdict(tuple(path), answer[len(path)])


def _request(text: Recorded, vocab: int) -> Request:
    params = SamplingParams(max_new_tokens=len(text.answer))
    prompt = list(text.prompt)
    return Request(
        params, Strategy(get_rule("walk"), Graph(), False, "replayed"), prompt, len(prompt), len(text.answer), frozenset(),
        Noise(0), Warper(params, len(prompt), [], torch.device("cpu")), Detokenizer(None, prompt, ()), vocab,
    )  # fmt: skip
