"""Edge sources: longest match first, runs followed, discounts learnt."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.draft.edges.rows import MAX_MATCH, PRIOR, Discounts, DraftRows, TextRows
from draftgraph.draft.edges.sources import learn_edges
from draftgraph.draft.graph import DraftGraph, Row
from draftgraph.draft.unroll import Unroller
from draftgraph.types import ROOT, Verdict

TEXTS = st.lists(st.integers(0, 2), max_size=30)


@pytest.mark.parametrize("source", PRIOR)
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_discounts_learn(source: str, rate: float) -> None:
    discounts = Discounts()
    assert discounts(source, 1) == PRIOR[source][0]
    assert discounts(source, 99) == discounts(source, 4) == PRIOR[source][3]
    for i in range(2000):
        discounts.learn(source, 2, 1.0, i % 10 < 10 * rate)
    assert discounts(source, 2) == pytest.approx(max(0.05, rate), abs=0.02)
    assert discounts(source, 1) == PRIOR[source][0]  # the other lengths have learnt nothing


def test_promises_count_by_their_mass() -> None:
    discounts = Discounts()
    for i in range(2000):
        discounts.learn("own", 1, 0.5, i % 4 == 0)
    assert discounts("own", 1) == pytest.approx(0.5, abs=0.02)


@given(TEXTS, TEXTS)
def test_the_longest_match_of_a_text(text: list[int], suffix: list[int]) -> None:
    rows = TextRows(Discounts())
    rows.extend(text)
    edge = rows.match(suffix)
    longest, following = 0, []
    for length in range(1, min(MAX_MATCH, len(suffix)) + 1):
        ends = [i for i in range(length, len(text)) if text[i - length : i] == suffix[-length:]]
        if ends:
            longest, following = length, [text[i] for i in ends]
    if edge is None:
        assert longest == 0
        return
    assert edge.match_length == longest
    assert set(edge.row.tokens) <= set(following)
    assert following[-1] in edge.row.tokens  # the latest occurrence counts
    assert sum(edge.row.probs) == pytest.approx(1.0)
    assert list(edge.row.probs) == sorted(edge.row.probs, reverse=True)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_runs_go_on_to_the_end_of_the_text(text: list[int]) -> None:
    rows = TextRows(Discounts(), "text")
    rows.extend(text)
    edge = rows.start()
    assert edge is not None
    key, said = edge.key, [edge.row.tokens[0]]
    while (following := rows.follow(key, said[-1])) is not None:
        key = following[0]
        said.append(following[1].tokens[0])
    assert said == text
    assert rows.follow(("other", 0), text[0]) is None
    assert rows.follow(edge.key, 99) is None


def test_empty_texts_have_no_rows() -> None:
    rows = TextRows(Discounts())
    assert rows.match([1, 2]) is None
    assert rows.start() is None
    rows.extend([1])
    assert rows.match([1]) is None  # nothing follows yet
    assert rows.match([]) is None


def test_the_targets_own_rows_are_preferred() -> None:
    rows = TextRows(Discounts())
    rows.extend([1, 2, 3], [None, Row([2, 7], [0.6, 0.3])])
    edge = rows.match([1])
    assert edge is not None
    assert (edge.source, edge.row.tokens) == ("own", [2, 7])
    assert rows.follow(edge.key, 7) is None  # the text went another way
    assert rows.follow(edge.key, 2) is not None
    assert rows.match([2]).source == "context"  # type: ignore[union-attr]


@given(TEXTS, TEXTS)
def test_each_kind_of_rows_of_a_text_can_be_left_out(text: list[int], suffix: list[int]) -> None:
    """With one kind alone, a place without a row of that kind is as if it were not there."""
    both, own, following, neither = (
        TextRows(Discounts(), own=own, following=following) for own, following in product((True, False), repeat=2)
    )
    later = len(text) // 2  # as in a request: a prompt, then output with rows of the target
    for rows in (both, own, following, neither):
        rows.extend(text, [Row([2, 7], [0.6, 0.3]) if i >= later else None for i in range(len(text))])
    found = {name: rows.match(suffix) for name, rows in {"own": own, "context": following}.items()}
    assert neither.match(suffix) is None
    assert all(edge is None or edge.source == name for name, edge in found.items())
    expected = both.match(suffix)
    if expected is None:
        assert not any(found.values())
    else:
        assert found[expected.source] == expected
    if found["own"] is not None:
        assert found["own"].row.tokens == [2, 7]
        assert found["own"].key[1] >= later


@given(
    st.lists(st.tuples(st.integers(-1, 11), st.integers(0, 2)), max_size=12), TEXTS, TEXTS, st.sets(st.integers(0, 11))
)
def test_rows_of_a_rejected_draft(
    nodes: list[tuple[int, int]], context: list[int], suffix: list[int], without: set[int]
) -> None:
    """The longest match among the nodes that are not left out, and the first of those; runs stay among them."""
    graph = DraftGraph()
    for node, (parent, token) in enumerate(nodes):
        graph.add(min(parent, node - 1), token, 1.0)
        graph.rows[node] = Row([node], [1.0])
    rows = DraftRows(graph, context, Discounts(), "rejected", without)
    texts = {node: [*context, *graph.path_tokens(node)] for node in range(len(graph)) if node not in without}
    agreeing = {node: agreement(text[-MAX_MATCH:], suffix[-MAX_MATCH:]) for node, text in texts.items()}
    edge = rows.match(suffix)
    if edge is None:
        assert max(agreeing.values(), default=0) == 0
        return
    assert edge.match_length == max(agreeing.values())
    assert edge.key == ("rejected", min(node for node, n in agreeing.items() if n == edge.match_length))
    assert edge.discount == PRIOR["rejected"][min(4, edge.match_length) - 1]
    for token in range(3):
        following = rows.follow(edge.key, token)
        below = [node for node in texts if graph.parents[node] == edge.key[1] and graph.tokens[node] == token]
        assert following == ((("rejected", below[0]), graph.rows[below[0]]) if below else None)


def agreement(text: list[int], suffix: list[int]) -> int:
    length = 0
    while length < min(len(text), len(suffix)) and text[-length - 1] == suffix[-length - 1]:
        length += 1
    return length


def test_rows_of_this_round() -> None:
    """Of equal matches the node drafted first wins; a run is followed along drafted children only."""
    graph = DraftGraph()
    first, second = graph.add(ROOT, 1, 0.5), graph.add(ROOT, 2, 0.5)
    child = graph.add(second, 1, 0.2)
    graph.rows |= {
        ROOT: Row([1, 2], [0.5, 0.5]),
        first: Row([4], [1.0]),
        second: Row([1], [1.0]),
        child: Row([6], [1.0]),
    }
    rows = DraftRows(graph, [9, 9], Discounts())
    short, long = rows.match([8, 1]), rows.match([2, 1])
    assert short is not None
    assert long is not None
    assert (short.key, short.match_length) == (("merge", first), 1)
    assert (long.key, long.match_length) == (("merge", child), 2)
    assert rows.follow(("merge", second), 1) == (("merge", child), graph.rows[child])
    assert rows.follow(("merge", second), 5) is None
    assert rows.match([5]) is None


def test_steps_that_follow_a_run_have_a_discount_of_their_own():
    discounts = Discounts()
    rows = TextRows(discounts)
    rows.extend([1, 2, 3, 4, 5, 6, 1, 2])
    graph = DraftGraph()
    Unroller(graph, [rows], rows.tokens, 0.0).grow([ROOT], 3, 9)
    assert graph.tokens == [3, 4, 5]
    first, further = discounts("context", 2), discounts("context", 0)
    assert graph.scores == pytest.approx([first, first * further, first * further**2])
    assert [graph.edges[node].followed for node in (ROOT, 0, 1)] == [False, True, True]
    assert graph.matched == [2, 2, 2]
    learn_edges(discounts, graph, Verdict((0, 1, 2), 6), [3, 4, 5, 6])
    assert discounts("context", 2) > first
    assert discounts("context", 0) > further
    assert discounts("context", 3) == PRIOR["context"][2]
