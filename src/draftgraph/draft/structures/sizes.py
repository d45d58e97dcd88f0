"""The parameters of structures, checked when they are written."""

from __future__ import annotations

from itertools import accumulate
from operator import mul
from typing import Any

from draftgraph.errors import OptionError, require
from draftgraph.values import as_integer, as_list

LARGEST_SHAPE = 4096
"""Of a given shape: more than any target verifies in one round."""


def size(name: str, value: Any, least: int = 1, others: str = "") -> int:
    """A parameter that counts something, as an int. Raises OptionError unless it is one, from `least` to LARGEST_SHAPE.

    others  what may stand instead, for the message.
    """
    count = as_integer(value)
    require(
        count is not None and least <= count <= LARGEST_SHAPE,
        name,
        value,
        f"an integer from {least} to {LARGEST_SHAPE}{others}",
    )
    assert count is not None
    return count


def child_counts(branching: Any) -> tuple[int, ...]:
    """Children per node for every depth. Raises OptionError for what says no such shape, or a shape of too many nodes."""
    found = [as_integer(count) for count in as_list(branching) or [None]]
    counts = tuple(count for count in found if count is not None and count >= 1)
    held = len(counts) == len(found) <= LARGEST_SHAPE
    require(held, "branching", branching, "a tuple of child counts >= 1, one per depth, e.g. (3, 2, 1, 1)")
    nodes = sum(accumulate(counts, mul))
    if nodes > LARGEST_SHAPE:
        raise OptionError(
            f"branching={counts} has {nodes} nodes, and a round verifies at most {LARGEST_SHAPE}; write fewer"
        )
    return counts
