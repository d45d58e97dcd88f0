"""Who may take how many cells, so that everybody can come to an end. A cell holds one token of one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """What a request holds, and what it may hold at most, in cells."""

    held: int
    most: int


def is_safe(free: int, claims: Sequence[Claim]) -> bool:
    """Whether there is an order in which all requests can come to their end, each with what those before it give back.

    That is the banker's algorithm (Dijkstra, EWD 623) for one kind of resource, where least need first is the best order.
    """
    if free < 0:
        return False
    for claim in sorted(claims, key=lambda claim: claim.most - claim.held):
        if claim.most - claim.held > free:
            return False
        free += claim.held
    return True
