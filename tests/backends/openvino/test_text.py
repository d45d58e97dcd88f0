"""What rows read is what they follow: the cells of a request, played with tokens for keys and values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from converted import Text
from draftgraph.backends.base import Feed
from draftgraph.backends.openvino.text import PagedText, Rows, enter
from draftgraph.types import ROOT


class Cells:
    """A request whose cells hold, instead of keys and values, the text that they were computed from."""

    def __init__(self) -> None:
        self.cells: list[tuple[int, ...]] = []

    def open(self, capacity: int) -> PagedText:
        return PagedText(capacity)

    def keep(self, text: PagedText, nodes: list[int]) -> None:
        text.keep(nodes)

    def read(self, text: PagedText, rows: Rows) -> list[tuple[int, ...]]:
        """The text that every row has seen, itself included."""
        seen: list[tuple[int, ...]] = []
        past = self.cells[: rows.past]
        assert len(past) == rows.past
        for i, token in enumerate(rows.tokens):
            above = range(i) if rows.visible is None else [j for j in range(i) if rows.visible[i, j]]
            before = [*(cell[-1] for cell in past), *(seen[j][-1] for j in above)]
            assert [*past, *(seen[j] for j in above)] == [tuple(before[: n + 1]) for n in range(len(before))]
            assert rows.positions[i] == len(before)
            seen.append((*before, token))
        self.cells[rows.past :] = seen
        return seen

    def move(self, text: PagedText) -> None:
        begin = text.read - len(text.moved)
        self.cells[begin : begin + len(text.moved)] = [self.cells[cell] for cell in text.moved]
        text.moved = []


@given(st.integers(1, 5), st.data())
def test_every_row_reads_its_own_past(length: int, data: st.DataObject) -> None:
    choose = lambda n: data.draw(st.integers(0, n - 1))  # noqa: E731
    cells = Cells()
    text = Text(cells, [choose(64) for _ in range(length)])
    for _ in range(1 + choose(4)):
        for number in range(1 + choose(4)):
            if (found := text.draw(choose, number == 0)) is not None:
                feed, asked = found
                cells.move(text.handle)
                rows = enter(feed, text.handle)
                seen = cells.read(text.handle, rows)
                assert [list(seen[row]) for row in rows.asked] == asked
                assert len(rows.fed) == feed.num_rows
        text.keep(choose)
        assert len(text.handle) == len(text.tokens) - 1


def test_a_chain_is_fed_a_row_at_a_time_and_a_tree_with_the_nodes_above() -> None:
    chain, tree = Text(Cells(), [1, 2]), Text(Cells(), [1, 2])
    for text in (chain, tree):
        enter(Feed(text.handle, [1, 2], [5], [ROOT]), text.handle)
    deeper = enter(Feed(chain.handle, [], [6], [0]), chain.handle)
    assert (deeper.past, deeper.tokens, deeper.visible) == (3, [6], None)
    wider = enter(Feed(tree.handle, [], [6, 7], [0, ROOT]), tree.handle)
    assert (wider.past, wider.tokens, wider.positions) == (2, [5, 6, 7], [2, 3, 2])
    assert wider.visible is not None
    assert wider.visible.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert list(wider.asked) == [1, 2]
