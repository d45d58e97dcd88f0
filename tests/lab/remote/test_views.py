"""Cells hold enough answers, and know nothing of ways."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from draftgraph.lab.remote.answers import Answer
from draftgraph.lab.remote.views import LEAST, cells, views_of


@given(st.lists(st.integers(0, 30).map(lambda i: min(i, 30 - i)), min_size=1, max_size=300), st.randoms())
def test_every_cell_holds_enough_and_equal_values_share_one(values, random):
    codes, size = cells(values)
    counts = Counter(codes.tolist())
    assert set(counts) == set(range(size))
    assert size == 1 or min(counts.values()) >= LEAST
    assert len({(value, code) for value, code in zip(values, codes.tolist(), strict=True)}) == len(set(values))
    order = list(range(len(values)))
    random.shuffle(order)
    again, _ = cells([values[i] for i in order])
    assert again.tolist() == codes[order].tolist(), "the order of answers is nothing"


def test_tokens_alone_and_together_are_looked_at():
    views = views_of(3, True)
    assert [view.name for view in views] == ["token 1", "token 2", "token 3", "tokens 1-2", "tokens 1-3"]
    short = Answer("a", True, ("a",))
    assert [view.value(short) for view in views] == [
        ("a",), ("<end>",), ("<end>",), ("a", "<end>"), ("a", "<end>", "<end>"),
    ]  # fmt: skip


def test_without_tokens_words_are():
    values = [view.value(Answer(" two words or more", False)) for view in views_of(3, False)]
    assert values == [("two",), ("two", "words"), " two words or more"]
