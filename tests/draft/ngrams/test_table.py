"""The table of a request: longest match first, learning from text, forks that change nothing, bounds."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.draft.ngrams.counts import ROW, Counter
from draftgraph.draft.ngrams.table import CORPUS_OCCURRENCES, MOST_KINDS, NgramTable

TEXT = st.lists(st.integers(0, 3), min_size=1, max_size=20)


def corpus(*texts: list[int]) -> NgramTable:
    counter = Counter(100)
    for text in texts:
        counter.add(text)
    return NgramTable(counter.counts())


def everything(table: NgramTable) -> dict[tuple[int, ...], object]:
    return {text: table.behind(text) for text in ((0,), (1,), (2,), *((a, b) for a in range(4) for b in range(4)))}


def test_two_tokens_are_believed_before_one() -> None:
    table = NgramTable()
    table.learn([], [1, 2, 3, 9, 2, 4, 8, 2, 4])
    behind_pair, behind_one = table.behind([1, 2]), table.behind([7, 2])
    assert behind_pair is not None
    assert behind_one is not None
    assert (behind_pair.length, behind_pair.tokens) == (2, [3])
    assert (behind_one.length, behind_one.tokens) == (1, [4, 3])
    assert table.behind([1, 99]) is None
    assert table.behind([2]) == behind_one


@given(TEXT, st.integers(0, 20))
def test_a_text_may_be_learnt_in_any_pieces(text: list[int], cut: int) -> None:
    whole, pieces = NgramTable(), NgramTable()
    whole.learn([], text)
    pieces.learn([], text[:cut])
    everything(pieces)  # what was asked for is not kept beyond what is learnt
    pieces.learn(text[:cut], text[cut:])
    assert everything(whole) == everything(pieces)


def test_probabilities_leave_room_for_other_tokens() -> None:
    """Witten and Bell: N occurrences of d tokens leave d / (N + d)."""
    table = NgramTable()
    table.learn([], [1, 5, 1, 5, 1, 6])
    row = table.behind([1])
    assert row is not None
    assert (row.tokens, row.probs) == ([5, 6], [2 / 5, 1 / 5])


def test_a_corpus_weighs_four_occurrences() -> None:
    table = corpus([1, 5] * 50)
    before = table.behind([1])
    assert before is not None
    assert before.probs == pytest.approx([50 / 51])
    table.learn([1], [6, 1, 6])
    row = table.behind([1])
    assert row is not None
    whole = CORPUS_OCCURRENCES + 2 + 1
    assert row.tokens == [5, 6]
    assert row.probs == pytest.approx([CORPUS_OCCURRENCES * 50 / 51 / whole, 2 / whole])


def test_the_text_at_hand_outweighs_a_corpus() -> None:
    table = corpus([1, 5] * 1000)
    table.learn([], [1, 6] * 20)
    row = table.behind([1])
    assert row is not None
    assert row.tokens == [6, 5]


def test_of_equals_the_latest_comes_first() -> None:
    table = NgramTable()
    table.learn([], [1, 5, 1, 6])
    table.learn([], [1, 5, 1, 6, 1, 5, 1, 7, 1, 7])
    row = table.behind([1])
    assert row is not None
    assert row.tokens == [5, 7, 6]


@given(TEXT, TEXT)
def test_a_fork_knows_the_same_and_changes_nothing(before: list[int], after: list[int]) -> None:
    table, twin = (corpus([0, 1, 2, 0, 1, 3]) for _ in range(2))
    for each in (table, twin):
        each.learn([], before)
    fork, other = table.fork(), twin.fork()
    fork.learn([], after)
    assert everything(table) == everything(twin) == everything(other)
    twin.learn([], [3, 3, 3])
    assert everything(other) == everything(table)


def test_rows_are_bounded_and_the_oldest_goes_first() -> None:
    table = NgramTable(max_rows=3)
    table.learn([], [1, 2, 3, 4, 1, 5])
    assert table.behind([2]) is None
    for token in (3, 4, 1):
        assert table.behind([token]) is not None
    assert len(table) == 6


def test_a_row_of_very_many_successors_is_cut_to_the_likeliest() -> None:
    table = NgramTable()
    table.learn([], [token for other in range(200) for token in (1, 100 + other, 1, 50)])
    row = table.behind([1])
    assert row is not None
    assert row.tokens[0] == 50
    assert len(row.tokens) == ROW
    assert sum(map(len, (each for each in table._learnt[1].values()))) < 200 + 2 * MOST_KINDS


def test_rows_rank_their_tokens_and_sum_to_less_than_one() -> None:
    draw = random.Random(5)
    table = corpus([draw.randrange(20) for _ in range(3000)])
    table.learn([], [draw.randrange(20) for _ in range(500)])
    for a in range(20):
        for b in range(20):
            row = table.behind([a, b])
            assert row is not None
            assert list(row.probs) == sorted(row.probs, reverse=True)
            assert 0 < sum(row.probs) < 1
            assert len(set(row.tokens)) == len(row.tokens) <= ROW


def test_a_table_is_learnt_and_read_by_threads() -> None:
    table, errors = NgramTable(max_rows=20), list[BaseException]()

    def work(seed: int) -> None:
        draw = random.Random(seed)
        try:
            for _ in range(1500):
                text = [draw.randrange(6) for _ in range(1 + draw.randrange(4))]
                table.learn(text[:-1], text[-1:])
                table.behind(text)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)
    assert len(table) <= 40
