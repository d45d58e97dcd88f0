"""Counted n-grams: what followed two tokens, or one, in some texts. Arrays that nobody changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from draftgraph.errors import OptionError

ROW = 12
"""Successors that a row keeps: the likeliest ones. As published for ADED (arXiv 2407.12021)."""
BITS = 21
"""A token takes so many bits of a key, so that three of them fit into 63 bits."""
MOST_TOKENS = 1 << BITS
"""Size of the largest vocabulary."""
_MASK = MOST_TOKENS - 1
_BUFFERED = 1 << 22
"""Tokens that are counted at once."""
Array = np.ndarray[Any, Any]


class Counted(NamedTuple):
    """What followed a key.

    tokens, counts  the likeliest successors, most frequent first.
    total           how often the key was followed by anything.
    kinds           how many different tokens followed it.
    """

    tokens: Sequence[int]
    counts: Sequence[int]
    total: int
    kinds: int


def key_of(tokens: Sequence[int]) -> int:
    """The key of one token, or of two."""
    return tokens[0] if len(tokens) == 1 else tokens[0] << BITS | tokens[1]


@dataclass(frozen=True, eq=False)
class Rows:
    """Successors by key.

    keys    i64[K], rising.
    starts  i64[K + 1]: the successors of key i stand from starts[i] to starts[i + 1].
    tokens, counts  i32[E] and i64[E], by key the most frequent first.
    totals, kinds   i64[K], of all successors, those that were cut off included.
    """

    keys: Array
    starts: Array
    tokens: Array
    counts: Array
    totals: Array
    kinds: Array

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, key: int) -> Counted | None:
        at = int(self.keys.searchsorted(key))
        if at == len(self.keys) or self.keys[at] != key:
            return None
        begin, end = int(self.starts[at]), int(self.starts[at + 1])
        counts = self.counts[begin:end].tolist()
        return Counted(self.tokens[begin:end].tolist(), counts, int(self.totals[at]), int(self.kinds[at]))


@dataclass(frozen=True, eq=False)
class Counts:
    """Rows behind one token (`single`) and behind two (`pairs`).

    vocab     size of the vocabulary.
    num_tokens  tokens that were counted.
    """

    single: Rows
    pairs: Rows
    vocab: int
    num_tokens: int

    @property
    def largest(self) -> int:
        """The largest token id; -1 where there is none."""
        single = self.single
        return max(int(single.keys[-1]), int(single.tokens.max())) if len(single) else -1

    def behind(self, length: int) -> Rows:
        """The rows behind so many tokens, 1 or 2."""
        return self.pairs if length == 2 else self.single


class Counter:
    """Counts texts, one after the other; memory grows with the number of different n-grams.

    vocab  size of the vocabulary.

    Raises OptionError for a vocabulary whose keys do not fit.
    """

    def __init__(self, vocab: int) -> None:
        if vocab > MOST_TOKENS:
            raise OptionError(f"a vocabulary of {vocab} tokens is too large for a table; {MOST_TOKENS} is the most")
        self.vocab, self.num_tokens = vocab, 0
        self._waiting: list[Array] = []
        self._held = 0
        self._counted: dict[int, list[tuple[Array, Array]]] = {1: [], 2: []}

    def add(self, ids: Sequence[int]) -> None:
        """Count one text. Nothing follows its end."""
        text = np.asarray(ids, dtype=np.int64)
        self.num_tokens += len(text)
        self._waiting += [text, np.array([-1])]
        self._held += len(text)
        if self._held >= _BUFFERED:
            self._count()

    def counts(self) -> Counts:
        """All that was counted so far."""
        self._count()
        single, pairs = (_rows(*_merged(self._counted[length])) for length in (1, 2))
        return Counts(single, pairs, self.vocab, self.num_tokens)

    def _count(self) -> None:
        if not self._waiting:
            return
        ids = np.concatenate(self._waiting)
        self._waiting, self._held = [], 0
        for length, found in self._counted.items():
            columns = [ids[i : len(ids) - length + i] for i in range(length + 1)]
            inside = np.logical_and.reduce([column >= 0 for column in columns])
            packed = np.zeros(int(inside.sum()), dtype=np.int64)
            for column in columns:
                packed = packed << BITS | column[inside]
            found.append(np.unique(packed, return_counts=True))
            if len(found) > 8:
                self._counted[length] = [_merged(found)]


def _merged(parts: Iterable[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Packed n-grams i64[n], rising and each once, and how often each was counted."""
    nothing = np.zeros(0, dtype=np.int64)
    packed, counts = (np.concatenate(arrays) for arrays in zip((nothing, nothing), *parts, strict=True))
    order = packed.argsort(kind="stable")
    packed, counts = packed[order], counts[order]
    first = np.flatnonzero(np.diff(packed, prepend=-1))
    return packed[first], np.add.reduceat(counts, first) if len(first) else counts


def _rows(packed: Array, counts: Array) -> Rows:
    """Rows of n-grams, cut to the ROW likeliest successors; equal counts stand by token."""
    keys, tokens = packed >> BITS, packed & _MASK
    order = np.lexsort((tokens, -counts, keys))
    keys, tokens, counts = keys[order], tokens[order], counts[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    kinds = np.diff(first, append=len(keys))
    totals = np.add.reduceat(counts, first) if len(first) else counts
    kept = np.arange(len(keys)) - np.repeat(first, kinds) < ROW
    starts = np.concatenate([[0], np.minimum(kinds, ROW).cumsum()]).astype(np.int64)
    return Rows(keys[first], starts, tokens[kept].astype(np.int32), counts[kept], totals, kinds)
