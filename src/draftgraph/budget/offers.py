"""What a request can draft, and what it costs in company: the joint between the budget of a request and that of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Level(NamedTuple):
    """One level of a draft, as expected: accepted tokens, nodes, drafter passes."""

    tokens: float
    nodes: float
    passes: float


@dataclass(frozen=True)
class Offer:
    """levels  of a draft, from its first one down. rows  of a drafter pass.

    overhead  seconds per round, per drafter pass and per node, beside the forwards.
    """

    levels: Sequence[Level]
    rows: float
    overhead: tuple[float, float, float]


@dataclass(frozen=True)
class Prices:
    """What a round costs with more or less of one request in it.

    rate      tokens per second of all requests together. requests  how many they are.
    share     tokens of one of them in such a round, on average: what else a round takes is divided among all.
    row       tokens that all could emit while the target reads one row more.
    passes    the same while one request takes part in drafter pass 1, 2, …
    seconds   for 0, 1, … nodes more, beside a request's share of the round.
    """

    rate: float
    requests: int
    share: float
    row: float
    passes: Sequence[float]
    seconds: Sequence[float]

    def of_draft(self, levels: Sequence[Level]) -> tuple[float, float]:
        """Tokens of one request's round with such a draft, and tokens per second while it takes part like that."""
        tokens = 1.0 + sum(level.tokens for level in levels)
        taken = self.share + sum(self.row * level.nodes for level in levels)
        taken += sum(made * level.passes for made, level in zip(self.passes, levels, strict=False))
        return tokens, self.rate * tokens / taken
