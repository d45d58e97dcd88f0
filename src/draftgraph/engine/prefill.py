"""Long texts are read piece by piece: in a step before a round, or beside those who decode, in the pass of their round."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from draftgraph.backends.base import CausalLM, Feed, Scored
from draftgraph.backends.prefill import piece_of, read_piece
from draftgraph.draft.base import Drafter
from draftgraph.draft.proposal import failing
from draftgraph.draft.terms import Limits
from draftgraph.errors import attempt
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


@dataclass
class Piece:
    """A piece of a long text that the target reads in the pass of a round of others.

    error  that came of it, once the round is over.
    """

    request: Request
    feed: Feed
    error: Exception | None = None

    def read(self, drafter: Drafter, rows: Scored | Exception) -> None:
        """The pass is made; the drafter sees its rows."""
        self.error = rows if isinstance(rows, Exception) else attempt(self._see, drafter, rows)

    def _see(self, drafter: Drafter, rows: Scored) -> None:
        with self.request.clock("drafting"), failing(drafter, "reading"):
            drafter.read(self.request, rows.taps, ())


def next_piece(request: Request, target: CausalLM) -> Piece | None:
    """What the target reads next of a text; None where `prefill` has to be asked."""
    if not target.joins:
        return None
    with request.clock("target"):
        target.expect(request.text, len(request.tokens))
    feed = piece_of(target, request.text, request.tokens[len(request.text) :])
    return None if feed is None else Piece(request, feed)
