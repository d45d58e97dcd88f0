"""The token table: the last row behind two tokens, else behind one; bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from draftgraph.draft.edges.rows import Discounts
from draftgraph.draft.edges.table import TABLE, TableRows, TokenTable
from draftgraph.draft.graph import DraftGraph, Row
from draftgraph.draft.unroll import Unroller
from draftgraph.types import ROOT

TOKENS = st.lists(st.integers(0, 2), max_size=4)


def row(number: int) -> Row:
    return Row([number], [1.0])


@given(st.lists(TOKENS, max_size=30), TOKENS)
def test_the_last_row_behind_the_longest_suffix(learnt: list[list[int]], suffix: list[int]) -> None:
    table = TokenTable()
    for number, before in enumerate(learnt):
        table.learn(before, row(number))
    edge = TableRows(table, Discounts()).match(suffix)
    for length in (2, 1):
        agreeing = [
            n
            for n, before in enumerate(learnt)
            if len(before) >= length <= len(suffix) and before[-length:] == suffix[-length:]
        ]
        if agreeing:
            assert edge is not None
            assert (edge.match_length, edge.row.tokens) == (length, [agreeing[-1]])
            assert edge.discount == Discounts()(TABLE, length)
            return
    assert edge is None


@given(st.lists(TOKENS, max_size=40), st.integers(1, 6))
def test_the_table_is_bounded(learnt: list[list[int]], most: int) -> None:
    table = TokenTable(most)
    for number, before in enumerate(learnt):
        table.learn(before, row(number))
        assert len(table) <= most
        if before:
            found = table.find(before)
            assert found is not None
            assert found[2].tokens == [number]


def test_what_is_used_stays() -> None:
    table = TokenTable(3)
    for token in (1, 2, 3):
        table.learn([token], row(token))
    assert table.find([1]) is not None
    table.learn([4], row(4))
    assert table.find([2]) is None
    assert table.find([1]) is not None


def test_self_similar_tables_do_not_run_in_circles() -> None:
    """Every entry leads back to another; a path passes none twice, and each costs its discount anew."""
    table = TokenTable()
    for a in (0, 1):
        for b in (0, 1):
            table.learn([a, b], Row([0, 1], [0.5, 0.5]))
    graph = DraftGraph()
    Unroller(graph, [TableRows(table, Discounts())], [0, 0], 0.0).grow([ROOT], 200, 50)
    assert 4 <= len(graph) < 200
    assert max(graph.depths) <= len(table)
    assert all(graph.score(node) < graph.score(graph.parents[node]) for node in range(len(graph)))
    assert set(graph.matched) == {2}
    assert TableRows(table, Discounts()).follow((TABLE, 0), 0) is None
