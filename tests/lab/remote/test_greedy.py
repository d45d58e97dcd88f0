"""Greedy texts: where they part, and what can explain it."""

from __future__ import annotations

import pytest

from draftgraph.lab.remote.answers import Answer
from draftgraph.lab.remote.greedy import compare_greedy, parting


def text(*steps: tuple[str, dict[str, float]]) -> Answer:
    """Tokens with the alternatives that are listed for them."""
    listed = tuple(tuple(sorted(top.items(), key=lambda entry: -entry[1])) for _, top in steps)
    pieces = tuple(piece for piece, _ in steps)
    own = tuple(top.get(piece, -9.0) for piece, top in steps)
    return Answer("".join(pieces), False, pieces, own, listed)


def two(gap: float) -> tuple[Answer, Answer]:
    top = {"a": -1.0, "b": -1.0 - gap}
    return text(("x", {"x": 0.0}), ("a", top)), text(("x", {"x": 0.0}), ("b", top))


@pytest.mark.parametrize(
    ("gap", "kind"), [(0.0, "rounding"), (0.0009, "rounding"), (0.01, "near-tie"), (0.24, "near-tie"), (0.3, "wrong")]
)
def test_the_gap_says_what_a_parting_is(gap, kind):
    found = parting(0, *two(gap))
    assert (found.position, found.kind) == (2, kind)
    assert found.gap == pytest.approx(gap)


def test_a_token_that_one_of_both_does_not_list_is_below_the_last():
    ours, theirs = text(("a", {"a": -0.1, "c": -3.0})), text(("b", {"b": -0.2, "c": -3.0}))
    assert parting(0, ours, theirs).gap == pytest.approx(2.9)


def test_a_text_that_ends_earlier_parts_and_nothing_is_stated_there():
    ours, theirs = two(0.1)
    assert parting(0, Answer("x", True, ("x",), (0.0,), ours.likeliest[:1]), theirs).kind == "unexplained"
    assert parting(0, ours, ours) is None


def test_texts_without_tokens_are_equal_or_unexplained():
    assert parting(0, Answer("a", True), Answer("a", True)) is None
    assert parting(0, Answer("a", True), Answer("b", True)).kind == "unexplained"


def test_everything_is_counted():
    ours, theirs = two(0.5)
    found = compare_greedy([ours, ours], [theirs, ours], [theirs, theirs])
    assert (found.texts, len(found.partings), found.repeats, found.differing) == (2, 1, 2, 1)
    assert [each.kind for each in found.wrong] == ["wrong"]
    assert found.tokens == 4


def test_one_way_is_checked_against_its_own_word():
    _, second = two(0.5)
    found = compare_greedy([second], [], [second])
    assert (found.texts, found.partings) == (0, ())
    assert [(each.ours, each.theirs, each.kind) for each in found.wrong] == [("b", "a", "wrong")]
