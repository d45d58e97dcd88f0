"""Counting: rows say what a dictionary says, in any chunks, without what spans two texts."""

from __future__ import annotations

from collections import Counter as Tally

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.draft.ngrams import counts as counting
from draftgraph.draft.ngrams.counts import MOST_TOKENS, ROW, Counter, key_of
from draftgraph.errors import OptionError

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=6)


@given(TEXTS, st.integers(1, 40))
def test_rows_are_what_a_dictionary_counts(texts: list[list[int]], buffered: int) -> None:
    counter = Counter(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_BUFFERED", buffered)
        for text in texts:
            counter.add(text)
        counts = counter.counts()
    assert counts.num_tokens == sum(map(len, texts))
    for length in (1, 2):
        expected: dict[int, Tally[int]] = {}
        for text in texts:
            for at in range(length, len(text)):
                expected.setdefault(key_of(text[at - length : at]), Tally())[text[at]] += 1
        rows = counts.behind(length)
        assert rows.keys.tolist() == sorted(expected)
        for key, tally in expected.items():
            found = rows.find(key)
            assert found is not None
            assert dict(zip(found.tokens, found.counts, strict=True)) == tally
            assert list(found.counts) == sorted(found.counts, reverse=True)
            assert (found.total, found.kinds) == (tally.total(), len(tally))
        assert rows.find(max([-1, *expected]) + 1) is None


def test_a_row_keeps_the_likeliest_and_counts_all() -> None:
    counter = Counter(100)
    counter.add([token for other in range(30) for token in [7, 40 + other] * (1 + other % 3)])
    found = counter.counts().single.find(7)
    assert found is not None
    assert len(found.tokens) == ROW
    assert (found.kinds, found.total) == (30, 60)
    assert found.counts[0] == 3
    assert found.tokens[0] == 42


def test_the_largest_tokens_have_keys_of_their_own() -> None:
    last = MOST_TOKENS - 1
    counter = Counter(MOST_TOKENS)
    counter.add([last, last, 0, last, last, 0])
    counts = counter.counts()
    found = counts.pairs.find(key_of([last, last]))
    assert found is not None
    assert (found.tokens, found.counts) == ([0], [2])
    assert counts.largest == last
    assert counts.pairs.keys.dtype == np.int64
    assert bool((counts.pairs.keys >= 0).all())


def test_a_vocabulary_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="too large"):
        Counter(MOST_TOKENS + 1)


def test_nothing_is_counted_in_nothing() -> None:
    counts = Counter(4).counts()
    assert len(counts.single) == len(counts.pairs) == 0
    assert counts.largest == -1
    assert counts.single.find(0) is None
