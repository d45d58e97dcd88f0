"""The step before a round: long texts are read piece by piece, and whoever decodes sees every piece."""

from __future__ import annotations

import torch

from draftgraph.backends.base import CausalLM
from draftgraph.backends.prefill import read_piece
from draftgraph.draft.base import Drafter
from draftgraph.draft.proposal import failing
from draftgraph.draft.terms import Limits
from draftgraph.request.state import Request


def prefill(request: Request, drafter: Drafter, target: CausalLM, limits: Limits) -> bool:
    """Let target or drafter read one piece of a text that is too long for the next round. Whether there was one.

    limits  those of the next round, which tell whether the drafter will have to read.
    """
    with request.clock("target"):
        target.expect(request.text, len(request.tokens))
        piece = read_piece(target, request.text, request.tokens[len(request.text) :], drafter.taps)
    with request.clock("drafting"), failing(drafter, "reading"):
        if piece is None and drafter.trusted:  # it reads in `read_piece` too
            return drafter.prefill(request, limits)
        with torch.inference_mode():
            if piece is None:
                return drafter.prefill(request, limits)
            drafter.read(request, piece.taps, ())
            return True
