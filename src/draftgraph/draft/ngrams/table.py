"""The n-gram table of a request: counts of a corpus, if there are any, and over them what the target has said.

From ADED (arXiv 2407.12021). There every tri-gram of the last 16 tokens gains 0.04 before each round, 3 at most, beside a row
whose weights sum to 1. A tri-gram stays among those tokens for about six rounds, so that it gains a quarter of a row. Here every
occurrence counts once, which is the same and does not depend on how many tokens a round accepts.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from draftgraph.draft.ngrams.counts import BITS, ROW, Counts, key_of

CORPUS_OCCURRENCES = 4.0
"""What a row of the corpus weighs, in occurrences in the text at hand."""
MOST_OCCURRENCES = 12
"""A successor counts as so many occurrences at most: what was said long ago must not outweigh what is said now."""
MOST_KINDS = 2 * ROW
"""Successors that a learnt row remembers before it is cut to the likeliest."""
MOST_ROWS = 1 << 17
"""Learnt rows, behind one token and behind two; those that were not learnt for longest go first."""
MOST_KNOWN = 1 << 15
"""Rows that are kept as they were last asked for."""


class Successors(NamedTuple):
    """What may follow a text.

    length  how many of its last tokens agree, 2 or 1.
    tokens  likeliest first, ROW at most.
    probs   their estimated probabilities. What is missing from 1 is the chance of any other token.
    """

    length: int
    tokens: Sequence[int]
    probs: Sequence[float]


class NgramTable:
    """Successors of the last two tokens; of the last one where the two were never seen.

    Requests of several threads may share one.

    counts  of a corpus, which are never changed; None begins empty.
    """

    def __init__(self, counts: Counts | None = None, max_rows: int = MOST_ROWS) -> None:
        self.counts, self.max_rows = counts, max_rows
        self._learnt: dict[int, OrderedDict[int, dict[int, int]]] = {1: OrderedDict(), 2: OrderedDict()}
        self._known: dict[int, dict[int, Successors | None]] = {1: {}, 2: {}}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """Learnt rows."""
        return sum(map(len, self._learnt.values()))

    def fork(self) -> NgramTable:
        """A table that knows the same, and whose learning changes nothing here."""
        other = NgramTable(self.counts, self.max_rows)
        with self._lock:
            for length, rows in self._learnt.items():
                other._learnt[length].update((key, dict(row)) for key, row in rows.items())
        return other

    def learn(self, before: Sequence[int], tokens: Sequence[int]) -> None:
        """A text that ends in `before` was continued by `tokens`."""
        text = [*before[-2:], *tokens]
        with self._lock:
            for at in range(len(text) - len(tokens), len(text)):
                for length in range(1, min(2, at) + 1):
                    self._count(length, key_of(text[at - length : at]), text[at])

    def behind(self, text: Sequence[int]) -> Successors | None:
        """What may follow a text of at least one token; None if nothing is known."""
        with self._lock:
            if len(text) > 1:
                found = self._row(2, text[-2] << BITS | text[-1])
                if found is not None:
                    return found
            return self._row(1, text[-1])

    def _count(self, length: int, key: int, token: int) -> None:
        rows = self._learnt[length]
        row = rows.pop(key, None) or {}
        row[token] = min(MOST_OCCURRENCES, row.pop(token, 0) + 1)  # the latest successor stands last
        if len(row) > MOST_KINDS:
            kept = set(_likeliest(row)[:ROW])
            row = {each: count for each, count in row.items() if each in kept}
        rows[key] = row
        self._known[length].pop(key, None)
        if len(rows) > self.max_rows:
            oldest, _ = rows.popitem(last=False)
            self._known[length].pop(oldest, None)

    def _row(self, length: int, key: int) -> Successors | None:
        known = self._known[length]
        if key not in known:
            if len(known) >= MOST_KNOWN:
                known.clear()
            known[key] = self._estimated(length, key)
        return known[key]

    def _estimated(self, length: int, key: int) -> Successors | None:
        """Corpus and text together, each with as much left for other tokens as it has seen different ones (Witten and Bell 1991).

        p(x) = (S c(x) / (C + D) + n(x)) / (S + N + d), for C occurrences of D tokens in the corpus and N of d in the text.
        """
        learnt = self._learnt[length].get(key)
        counted = None if self.counts is None else self.counts.behind(length).find(key)
        if learnt is None:
            if counted is None:
                return None
            held = counted.total + counted.kinds
            return Successors(length, counted.tokens, [count / held for count in counted.counts])
        weights = {token: float(learnt[token]) for token in _likeliest(learnt)}
        whole = float(sum(learnt.values()) + len(learnt))
        if counted is not None:
            share = CORPUS_OCCURRENCES / (counted.total + counted.kinds)
            whole += CORPUS_OCCURRENCES
            for token, count in zip(counted.tokens, counted.counts, strict=True):
                weights[token] = weights.get(token, 0.0) + share * count
        best = sorted(weights, key=lambda token: -weights[token])[:ROW]
        return Successors(length, best, [weights[token] / whole for token in best])


def _likeliest(row: dict[int, int]) -> list[int]:
    """The successors of a learnt row, most frequent first; of equals the latest."""
    return sorted(reversed(row), key=lambda token: -row[token])
