"""What a graph has cached of one request: blocks of cells, of which the first ones hold the text in order.

Every row of a pass reads all cells before those that the pass writes. So the nodes of a round cannot simply stay where they are,
as in a pool of cells with masks. Nodes that all new rows descend from count as text. Other nodes that new rows descend from are
fed again, in front of them. What is overwritten by that and kept in the end is read again with the next round's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from draftgraph.backends.base import CacheHandle, Feed

Mark = tuple[int, list[int], int]
"""Committed tokens, those without cells, and nodes: what a text was before a pass."""


@dataclass(eq=False)
class BlockHandle(CacheHandle):
    """blocks  the blocks that the request holds.

    length   committed tokens.
    unread   the last of them, which have no cells: they are fed before all others.
    drafted  the token of every node of this round.
    """

    blocks: list[int] = field(default_factory=list)
    length: int = 0
    unread: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.length

    @property
    def read(self) -> int:
        """Cells of the text."""
        return self.length - len(self.unread)

    def mark(self) -> Mark:
        """What `back` goes back to."""
        return self.length, list(self.unread), len(self.nodes)

    def back(self, mark: Mark) -> None:
        """Take back what was entered since. Cells behind the text are lost: nodes that lay there are fed again."""
        self.length, self.unread, nodes = mark
        del self.nodes[nodes:], self.drafted[nodes:]

    def clear(self) -> None:
        super().clear()
        self.blocks, self.length, self.unread, self.drafted = [], 0, [], []


@dataclass(eq=False)
class PagedText(BlockHandle):
    """blocks  in the order of its cells. Those of the text are `read`, once `moved` is done.

    laid   nodes of this round in the cells after those of the text, in order.
    moved  cells to be copied to the end of the text, before the next pass.
    nodes  per node its path from the root, as node numbers, itself included.
    """

    laid: list[int] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)

    def back(self, mark: Mark) -> None:
        super().back(mark)
        self.laid = []

    def keep(self, nodes: Sequence[int]) -> None:
        """End the round: a path from the root joins the text, where it lies if that is its place, else moved or read again."""
        begin, cells = self.read, {node: cell for cell, node in enumerate(self.laid)}
        there = 0
        while not self.unread and there < len(nodes) and nodes[there] in cells:
            there += 1
        if nodes:
            found = [begin + cells[node] for node in nodes[:there]]
            self.moved = found if found != list(range(begin, begin + there)) else []
            self.unread += [self.drafted[node] for node in nodes[there:]]
            self.length += len(nodes)
        self.nodes, self.laid, self.drafted = [], [], []

    def clear(self) -> None:
        super().clear()
        self.laid, self.moved = [], []


@dataclass(slots=True)
class Rows:
    """The rows of one request in one pass.

    past       cells that every row reads.
    tokens, positions  of every row.
    visible    u8[n, n] whether a row reads a row; None: every row reads those before it and itself.
    asked      rows whose logits are wanted.
    fed        rows of the feed, for hidden states.
    """

    past: int
    tokens: list[int]
    positions: list[int]
    visible: npt.NDArray[np.uint8] | None
    asked: Sequence[int]
    fed: Sequence[int]


def enter(feed: Feed, text: PagedText) -> Rows:
    """Lay out what a request feeds, and enter it into its state."""
    commits = [*text.unread, *feed.committed] if feed.committed or feed.tokens else []
    begin = text.read
    first = len(text.nodes)
    length = text.length + len(feed.committed)
    if commits:  # they overwrite whatever was laid behind the text
        text.laid = []
    nodes, drafted = text.nodes, text.drafted
    for token, parent in zip(feed.tokens, feed.parents, strict=True):
        nodes.append([*nodes[parent], len(nodes)] if parent >= 0 else [len(nodes)])
        drafted.append(token)
    new = range(first, len(nodes))
    trunk, again = _above(text, first) if first else (0, [])
    order = [*again, *new]
    text.length, text.unread = length, []
    text.laid = [*text.laid[:trunk], *order]
    head = len(commits)
    paths = [nodes[node] for node in order]
    start = head + len(again)
    fed = [*range(start, start + len(new))]
    return Rows(
        begin + trunk,
        commits + [drafted[node] for node in order],
        [*range(length - head, length)] + [length + len(path) - 1 for path in paths],
        _visible(head, trunk, order, paths),
        [head - 1, *fed] if feed.committed else fed,
        [*range(head - len(feed.committed), head), *fed],
    )


def _above(text: PagedText, first: int) -> tuple[int, list[int]]:
    """How many of the laid nodes all nodes from `first` on descend from, and the other old nodes above any of them."""
    above = [[node for node in text.nodes[new] if node < first] for new in range(first, len(text.nodes))]
    if len(above) == 1 and above[0] == text.laid:  # a chain grows
        return len(text.laid), []
    if not any(above):
        return 0, []
    trunk = 0
    for node in text.laid:
        if not all(len(path) > trunk and path[trunk] == node for path in above):
            break
        trunk += 1
    return trunk, sorted({node for path in above for node in path[trunk:]})


def _visible(
    head: int, trunk: int, order: Sequence[int], paths: Sequence[Sequence[int]]
) -> npt.NDArray[np.uint8] | None:
    """Which rows read which: `head` committed ones, then nodes, each with its path of which `trunk` nodes are cached."""
    depth = trunk
    for path in paths:
        depth += 1
        if len(path) != depth:
            break
    else:
        return None
    size = head + len(order)
    visible = bytearray(size * size)  # entries one by one, which NumPy takes several times as long for
    for row in range(size):
        seen = min(row + 1, head)
        visible[row * size : row * size + seen] = b"\1" * seen
    place = {node: head + i for i, node in enumerate(order)}
    for row, path in enumerate(paths, head):
        for node in path[trunk:]:
            visible[row * size + place[node]] = 1
    return np.frombuffer(visible, dtype=np.uint8).reshape(size, size)
