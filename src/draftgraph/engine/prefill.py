"""Long texts are read piece by piece: in a step before a round, or beside those who decode, in the pass of their round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from draftgraph.backends.base import CausalLM, Feed, Scored
from draftgraph.backends.prefill import piece_of
from draftgraph.backends.together import forward_each
from draftgraph.draft.base import Drafter
from draftgraph.draft.proposal import failing
from draftgraph.draft.terms import Limits
from draftgraph.errors import attempt
from draftgraph.request.clock import Clock, shared
from draftgraph.request.state import Request


def prefill(request: Request, drafter: Drafter, target: CausalLM, limits: Limits) -> bool:
    """Let target or drafter read one piece of a text that is too long for the next round. Whether there was one.

    limits  those of the next round, which tell whether the drafter will have to read.
    """
    target.expect(request.text, len(request.tokens))
    piece = piece_of(target, request.text, request.tokens[len(request.text) :])
    if piece is not None:
        _read(piece, request, drafter, target)
        return True
    with request.clock("drafting"), failing(drafter, "reading"):
        if drafter.trusted:  # it reads in `read_piece`, which sees to that itself
            return drafter.prefill(request, limits)
        with torch.inference_mode():
            return drafter.prefill(request, limits)


@torch.inference_mode()
def _read(piece: Feed, request: Request, drafter: Drafter, target: CausalLM) -> None:
    with request.clock("target"):
        (rows,) = target.forward([piece], drafter.taps)
    with request.clock("drafting"), failing(drafter, "reading"):
        drafter.read(request, rows.taps, ())


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


Pieces = Sequence[Piece]


def next_piece(request: Request, target: CausalLM) -> Piece | None:
    """What the target reads next of a text; None where `prefill` has to be asked."""
    if not target.joins:
        return None
    with request.clock("target"):
        target.expect(request.text, len(request.tokens))
    feed = piece_of(target, request.text, request.tokens[len(request.text) :])
    return None if feed is None else Piece(request, feed)


def forward_beside(
    target: CausalLM,
    feeds: Sequence[Feed],
    clocks: Sequence[Clock],
    taps: Sequence[str],
    pieces: Pieces,
    drafter: Drafter,
) -> list[Scored | Exception]:
    """One pass over the rows of a round and over pieces of other texts, which are then read. Returns what the round gets.

    clocks  of those whose rows `feeds` are.
    """
    every = [*feeds, *(piece.feed for piece in pieces)]
    charged = [*clocks, *(piece.request.clock for piece in pieces)]
    with shared("target", charged, [feed.num_rows for feed in every]):
        scored = forward_each(target, every, taps)
    for piece, rows in zip(pieces, scored[len(feeds) :], strict=True):
        piece.read(drafter, rows)
    return scored[: len(feeds)]
