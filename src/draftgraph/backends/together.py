"""One pass over the rows of several requests, of whom one may be at fault."""

from __future__ import annotations

from collections.abc import Sequence

from draftgraph.backends.base import CausalLM, Feed, Scored
from draftgraph.errors import attempt


def forward_each(model: CausalLM, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored | Exception]:
    """What a pass gives to every request: its rows, or its own error.

    A pass that fails is repeated request by request, so that only those get an error whose rows cause one.
    """
    if len(feeds) > 1 and model.joins:
        found = attempt(model.forward, feeds, taps)
        if not isinstance(found, Exception):
            return list(found)
    return [_alone(model, feed, taps) for feed in feeds]


def _alone(model: CausalLM, feed: Feed, taps: Sequence[str]) -> Scored | Exception:
    found = attempt(model.forward, [feed], taps)
    return found if isinstance(found, Exception) else found[0]
