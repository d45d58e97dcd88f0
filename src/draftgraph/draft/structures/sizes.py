"""The parameters of structures, checked when they are written."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from numbers import Integral
from operator import mul
from typing import Any

from draftgraph.errors import OptionError, require

MOST_NODES = 4096
"""Of a given shape: more than any target verifies in one round."""


def check_size(name: str, value: Any) -> None:
    """Raises OptionError unless `value` is a number of nodes."""
    whole = isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= MOST_NODES
    require(whole, name, value, f"an integer from 1 to {MOST_NODES}")


def child_counts(branching: Any) -> tuple[int, ...]:
    """Children per node for every depth. Raises OptionError for what says no such shape, or a shape of too many nodes."""
    possible = "a tuple of child counts >= 1, one per depth, e.g. (3, 2, 1, 1)"
    require(isinstance(branching, Iterable) and not isinstance(branching, str), "branching", branching, possible)
    counts: tuple[Any, ...] = tuple(branching)
    whole = all(isinstance(k, Integral) and not isinstance(k, bool) and int(k) >= 1 for k in counts)
    require(whole and 0 < len(counts) <= MOST_NODES, "branching", counts, possible)
    counts = tuple(int(k) for k in counts)
    nodes = sum(accumulate(counts, mul))
    if nodes > MOST_NODES:
        raise OptionError(
            f"branching={counts} has {nodes} nodes, and a round verifies at most {MOST_NODES}; write fewer"
        )
    return counts
