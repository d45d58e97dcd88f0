"""What a graph has cached of one request whose drafts are read as paths, each a sequence of its own.

A node of a tree that is read in one sequence has its siblings among the keys. Its sums run in another order than those of a
chain, and rounding tells. In a sequence of its own a path is a chain. All paths share the text's full blocks, and each has its
own copy of the last, partial block. What several paths begin with is computed in each; its logits are those of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from draftgraph.backends.base import Feed
from draftgraph.backends.openvino.pool import CELLS, blocks_for
from draftgraph.backends.openvino.text import BlockHandle, Mark, Rows

LEAST_ROWS = 2
"""Rows of a sequence. A single row takes another kernel, which rounds otherwise; a second one costs no time."""
COMMITTED = -1
"""Stands for the last committed token among nodes."""


@dataclass(eq=False)
class UnrolledText(BlockHandle):
    """blocks  in the order of the text's cells, then those of other paths.

    paths    of the last pass, as nodes; the first one's cells continue those of the text.
    shared   blocks that all of them read. owned  the further blocks of each.
    nodes    per node its path from the root, as node numbers, itself included.
    """

    paths: list[list[int]] = field(default_factory=list)
    shared: int = 0
    owned: list[list[int]] = field(default_factory=list)

    def back(self, mark: Mark) -> None:
        super().back(mark)
        self.paths, self.owned = [[]], [[]]

    def needed(self, passed: Sequence[Path]) -> int:
        """Blocks that the request holds while these paths are read."""
        return self.read // CELLS + sum(self._own(path) for path in passed)

    def _own(self, path: Path) -> int:
        return blocks_for(self.read + len(path.rows.tokens)) - self.read // CELLS

    def place(self, passed: Sequence[Path]) -> list[list[int]]:
        """Give every path its blocks; returns them with those that it shares."""
        self.shared = self.read // CELLS
        self.paths, self.owned, start = [path.nodes for path in passed], [], self.shared
        for path in passed:
            end = start + self._own(path)
            self.owned.append(self.blocks[start:end])
            start = end
        return [self.blocks[: self.shared] + own for own in self.owned]

    def keep(self, nodes: Sequence[int]) -> None:
        """End the round: a path from the root joins the text. What was not read in the last pass is read again."""
        if nodes:
            common = [_common(path, nodes) for path in self.paths]
            best = common.index(max(common))
            others = [block for i, own in enumerate(self.owned) if i != best for block in own]
            spare = self.blocks[self.shared + sum(map(len, self.owned)) :]
            self.blocks = self.blocks[: self.shared] + self.owned[best] + others + spare
            self.unread = self.unread + [self.drafted[node] for node in nodes[common[best] :]]
            self.length += len(nodes)
        self.nodes, self.drafted, self.paths, self.owned = [], [], [], []

    def clear(self) -> None:
        super().clear()
        self.shared, self.paths, self.owned = 0, [], []


@dataclass(frozen=True)
class Path:
    """One path as a sequence of a pass.

    nodes   from a child of the root down to a leaf.
    rows    what it reads; those that are asked for belong to `first`.
    first   nodes that no earlier path has, COMMITTED among them: their logits are taken from this path.
    """

    nodes: list[int]
    rows: Rows
    first: list[int]


def enter(feed: Feed, text: UnrolledText) -> Rows | None:
    """Enter what a request feeds into its state. Returns the rows of committed tokens before the last one, if there are any.

    They are read in a pass of their own, so that its width depends on the text alone. Then `unread` is the last one, or empty.
    Where the text goes on, the last one is read with them.
    """
    tokens = [*text.unread, *feed.committed] if feed.committed or feed.tokens else []
    for token, parent in zip(feed.tokens, feed.parents, strict=True):
        text.nodes.append([*(text.nodes[parent] if parent >= 0 else []), len(text.nodes)])
        text.drafted.append(token)
    begin = text.read
    text.length += len(feed.committed)
    if not tokens:
        return None
    end = len(tokens) - (not feed.goes_on)
    before, text.unread = tokens[:end], tokens[end:]
    fed = len(feed.committed) - len(text.unread)
    return _rows(begin, before, [len(before) - 1], range(len(before) - fed, len(before))) if before else None


def paths(feed: Feed, text: UnrolledText) -> list[Path]:
    """The draft that was entered last, unrolled; its paths hold all new nodes. Without a draft, the last committed token."""
    new = range(len(text.nodes) - len(feed.tokens), len(text.nodes))
    inner = set(feed.parents)
    ends = [text.nodes[node] for node in new if node not in inner] or ([[]] if text.unread else [])
    seen = set() if feed.committed else {COMMITTED}
    found = []
    for nodes in ends:
        labels = [*([COMMITTED] if text.unread else []), *nodes]
        asked = [row for row, node in enumerate(labels) if node not in seen and (node == COMMITTED or node in new)]
        tokens = [*text.unread, *(text.drafted[node] for node in nodes)]
        found.append(Path(nodes, _rows(text.read, tokens, asked, asked), [labels[row] for row in asked]))
        seen |= set(labels)
    return found


def _rows(past: int, tokens: list[int], asked: Sequence[int], fed: Sequence[int]) -> Rows:
    """A sequence whose rows each read all before them, filled with its last row to LEAST_ROWS."""
    spare = max(0, LEAST_ROWS - len(tokens))
    positions = list(range(past, past + len(tokens)))
    return Rows(past, tokens + tokens[-1:] * spare, positions + positions[-1:] * spare, None, asked, fed)


def _common(path: Sequence[int], nodes: Sequence[int]) -> int:
    """How many nodes both begin with."""
    count = 0
    while count < min(len(path), len(nodes)) and path[count] == nodes[count]:
        count += 1
    return count
