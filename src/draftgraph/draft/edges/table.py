"""The token table: what the target expected last behind two tokens, or one, in whatever request that was.

The only edge source that outlives a request. It needs no draft model: on its own it is a drafter.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from draftgraph.draft.edges.rows import Discounts
from draftgraph.draft.graph import Edge, Row, RowKey

TABLE = "table"
MAX_ROWS = 2**15
"""Rows kept, about 1 kB each; the ones that were not used for longest go first."""


class TokenTable:
    """Rows of the target by the two tokens before them, and by the last one. Belongs to an engine's drafter.

    Requests of several threads share it.
    """

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self.max_rows = max_rows
        self._rows: OrderedDict[tuple[int, ...], tuple[int, Row]] = OrderedDict()
        self._written = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._rows)

    def learn(self, suffix: Sequence[int], row: Row) -> None:
        """The target's row behind a text that ends in `suffix`; it replaces an older one."""
        with self._lock:
            for length in (1, 2):
                if length <= len(suffix):
                    key = tuple(suffix[-length:])
                    self._rows[key] = (self._written, row)
                    self._rows.move_to_end(key)
                    self._written += 1
            while len(self._rows) > self.max_rows:
                self._rows.popitem(last=False)

    def find(self, suffix: Sequence[int]) -> tuple[int, int, Row] | None:
        """The row for a text that ends in `suffix`: (how many tokens agree, the row's number, the row)."""
        with self._lock:
            for length in (2, 1):
                key = tuple(suffix[-length:])
                if len(key) == length and key in self._rows:
                    self._rows.move_to_end(key)
                    return length, *self._rows[key]
        return None


class TableRows:
    """The table as an edge source of one request, whose discounts it uses."""

    def __init__(self, table: TokenTable, discounts: Discounts) -> None:
        self.table, self.discounts = table, discounts

    def match(self, suffix: Sequence[int]) -> Edge | None:
        found = self.table.find(suffix)
        if found is None:
            return None
        length, number, row = found
        return self.discounts.edge(row, (TABLE, number), TABLE, length)

    def follow(self, key: RowKey, token: int) -> tuple[RowKey, Row] | None:
        """Entries are not a text: nothing follows."""
        return None
