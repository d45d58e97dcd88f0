"""Stop strings are found at once, in the text with and without special tokens, and never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.request.stops import StopStrings

SPECIAL = ("<end>", "<x>")
PIECES = st.lists(st.sampled_from(["a", "b", "ab", "", "<", "end", ">", *SPECIAL]), max_size=10)


def cut(pieces: list[str], stops: list[str]) -> tuple[str, int | None]:
    """The slow truth: what is shown, and how many pieces it takes to know that it ends."""
    for count in range(1, len(pieces) + 1):
        shown = "".join(piece for piece in pieces[:count] if piece not in SPECIAL)
        named = [stop for stop in stops if any(name in stop for name in SPECIAL)]
        ends = [at for stop in stops if (at := shown.find(stop)) >= 0]
        for stop in named:
            whole, at = "".join(pieces[:count]), "".join(pieces[:count]).find(stop)
            if at >= 0:
                ends.append(len(without(pieces[:count], at)))
            assert whole.count(stop) <= len(whole)
        if ends:
            return shown[: min(ends)], count
    return "".join(piece for piece in pieces if piece not in SPECIAL), None


def without(pieces: list[str], at: int) -> str:
    """What is shown of the first `at` characters of all pieces."""
    shown, place = "", 0
    for piece in pieces:
        if piece not in SPECIAL:
            shown += piece[: max(0, at - place)]
        place += len(piece)
    return shown


@given(PIECES, st.lists(PIECES.map("".join).filter(bool), min_size=1, max_size=3))
def test_every_stop_is_found_where_the_slow_truth_finds_it(pieces: list[str], stops: list[str]) -> None:
    matcher = StopStrings(stops, SPECIAL)
    given_away, found_at = "", None
    for count, piece in enumerate(pieces, 1):
        given_away += matcher.feed(piece, is_shown=piece not in SPECIAL)
        if matcher.found:
            found_at = count
            break
    else:
        given_away += matcher.rest()
    assert (given_away, found_at) == cut(pieces, stops)


@given(PIECES, st.lists(PIECES.map("".join).filter(bool), min_size=1, max_size=3))
def test_no_more_is_held_back_than_may_become_a_stop(pieces: list[str], stops: list[str]) -> None:
    matcher = StopStrings(stops, SPECIAL)
    given_away = ""
    for count, piece in enumerate(pieces, 1):
        given_away += matcher.feed(piece, is_shown=piece not in SPECIAL)
        if matcher.found:
            return
        shown = "".join(each for each in pieces[:count] if each not in SPECIAL)
        assert shown.startswith(given_away)
        assert len(shown) - len(given_away) < max(map(len, stops))


@pytest.mark.parametrize(
    ("stop", "pieces", "shown"),
    [
        ("<end>", ["a", "<end>"], "a"),
        ("b<end>", ["a", "b", "<end>"], "a"),
        ("<end>\n", ["a", "<end>", "\n"], "a"),
        ("a<end>b<x>", ["b", "a", "<end>", "b", "<x>"], "b"),
        ("<end><end>", ["<end>", "a", "<end>", "<end>"], "a"),
        ("<end>", ["a", "<e", "nd>"], "a"),
    ],
)
def test_special_tokens_within_stop_strings(stop: str, pieces: list[str], shown: str) -> None:
    matcher = StopStrings([stop], SPECIAL)
    assert "".join(matcher.feed(piece, is_shown=piece not in SPECIAL) for piece in pieces) == shown
    assert matcher.found


def test_special_tokens_that_no_stop_names_do_not_part_the_text() -> None:
    matcher = StopStrings(["ab", "<x>"], ())
    assert matcher.feed("a") == ""
    assert matcher.feed("b") == ""
    assert matcher.found
