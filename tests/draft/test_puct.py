"""The search: it holds the greedy continuation, knows its bounds, and its value term counts the n-grams that were walked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.draft.ngrams.table import NgramTable, Successors
from draftgraph.draft.puct import DEPTH, MOST_FOUND, Search

TEXT = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def search(table: NgramTable, context: Sequence[int], depth: int = 6, **options: object) -> Search:
    return Search(context, table.behind, lambda length: (0.5, 0.9)[length - 1], depth, **options)  # type: ignore[arg-type]


def learnt(text: Sequence[int]) -> NgramTable:
    table = NgramTable()
    table.learn([], text)
    return table


@given(TEXT, st.integers(1, 100), st.integers(1, 8), st.integers(0, 60))
def test_what_is_found(text: list[int], budget: int, depth: int, simulations: int) -> None:
    """Each prefix once, behind its parent, with the product of the trusted probabilities; none deeper than asked."""
    table = learnt(text)
    found = search(table, text, depth).found(budget, simulations)
    assert len(found) <= max(budget, MOST_FOUND)
    scores: dict[tuple[int, ...], float] = {(): 1.0}
    for path, score, length in found:
        assert path not in scores
        assert 1 <= len(path) <= depth
        row = table.behind([*text, *path[:-1]])
        assert row is not None
        assert length == row.length
        trust = (0.5, 0.9)[length - 1]
        assert score == pytest.approx(scores[path[:-1]] * trust * row.probs[row.tokens.index(path[-1])])
        scores[path] = score


@given(TEXT, st.integers(1, 40), st.integers(1, 8), st.booleans())
def test_the_greedy_continuation_is_among_it(text: list[int], budget: int, depth: int, valued: bool) -> None:
    table = learnt(text)
    found = {each.path for each in search(table, text, depth, value_weight=float(valued)).found(budget)}
    path: tuple[int, ...] = ()
    while len(path) < min(DEPTH, depth):
        row = table.behind([*text, *path])
        if row is None:
            break
        path = (*path, row.tokens[0])
        assert path in found


@given(TEXT, st.integers(1, 40))
def test_a_search_is_a_function_of_the_text(text: list[int], budget: int) -> None:
    assert search(learnt(text), text).found(budget) == search(learnt(text), text).found(budget)


@given(TEXT, st.integers(0, 3))
def test_what_a_grammar_refuses_is_not_found(text: list[int], banned: int) -> None:
    table = learnt(text)

    for path, _, _ in search(table, text, refuses=lambda path, token: token == banned).found(30):
        assert banned not in path


def test_an_unknown_text_finds_nothing() -> None:
    assert search(learnt([1, 2, 3]), [9]).found(8) == []
    assert search(NgramTable(), [9]).found(8) == []


def test_a_run_that_is_known_is_followed_to_the_end() -> None:
    """Greedy continuations fill what the budget leaves."""
    text = list(range(12))
    found = search(learnt(text), text[:2], depth=9).found(9)
    assert [each.path[-1] for each in found] == list(range(2, 11))


class Rows:
    """Two first tokens, behind 9 equally likely; behind 1 everything is unlikely, behind 2 one token is nearly sure."""

    rows: ClassVar[dict[tuple[int, ...], Successors]] = {
        (0,): Successors(2, [1, 2], [0.4, 0.3]),
        (9,): Successors(2, [1, 2], [0.4, 0.4]),
        (9, 1): Successors(2, [3, 4, 5], [0.1, 0.1, 0.1]),
        (9, 2): Successors(2, [3], [0.95]),
        (0, 1): Successors(2, [3, 4, 5], [0.1, 0.1, 0.1]),
        (0, 2): Successors(2, [3], [0.95]),
        (2, 3): Successors(2, [3], [0.95]),
        (3, 3): Successors(2, [3], [0.95]),
    }

    def __call__(self, text: Sequence[int]) -> Successors | None:
        return self.rows.get(tuple(text[-2:]))


def visits(value_weight: float) -> list[int]:
    root = Search([9], Rows(), lambda length: 1.0, 4, value_weight=value_weight)
    root._simulate(60)
    return root._root.visits


def test_the_value_sends_simulations_where_long_runs_are_expected() -> None:
    """By the prior alone both are visited alike; the n-grams that were walked speak for the second."""
    assert visits(0.0) == [30, 30]
    one, other = visits(1.0)
    assert other > one


def test_the_value_is_one_and_the_weights_of_the_path() -> None:
    found = Search([0], Rows(), lambda length: 0.5, 4)
    found._simulate(1)
    assert found._root.means == [
        pytest.approx(1 + 0.5 * 0.4 + 0.5 * 0.1)
    ]  # 1, then greedily 3, behind which nothing is known
    found._simulate(1)
    assert found._root.means[1] == pytest.approx(1 + 0.5 * (0.3 + 3 * 0.95))
