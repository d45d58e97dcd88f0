"""A model whose rows are the same bit for bit, whatever is read beside them: passes of two rows and more, drafts as paths.

Text with drafts is then that of plain decoding, in bfloat16 and with quantised weights too (docs/benchmarks/bitwise.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch

from draftgraph.backends.base import BITWISE, CacheHandle, Feed, Scored
from draftgraph.backends.buckets import Buckets
from draftgraph.backends.openvino.model import OpenVinoModel
from draftgraph.backends.openvino.pool import CELLS
from draftgraph.backends.openvino.text import Rows
from draftgraph.backends.openvino.unrolled import Path, UnrolledText, enter, paths
from draftgraph.errors import ModelError

TOGETHER = 64
"""Rows of a pass over drafts, unless one path has more. Wider passes cost as much per row."""
SIZES = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of rows that passes are padded to. Rows cost less here beside a change than in float32, so there are fewer sizes."""
NARROWEST = (2, 6, 12)
"""Sizes that a model's narrowest passes may have: narrower ones may take kernels that round otherwise. On processors with AMX,
quantised weights beside bfloat16 do so up to 4 rows."""
Placed = tuple[Rows, Sequence[int]]
"""A sequence with its blocks."""


class BitwiseModel(OpenVinoModel):
    """The same graph and memory as another model of this process, in other passes."""

    forks: ClassVar[bool] = False

    def __init__(self, model: OpenVinoModel, narrowest: int = NARROWEST[0]) -> None:
        """narrowest  rows of its narrowest passes, one of SIZES."""
        self.base = model  # others of this process that want it find it running
        self.about, self.precision, self.pool = model.about, model.precision, model.pool
        self._compiled, self._turn = model._compiled, model._turn
        self.sizes, self._least_asked = SIZES[SIZES.index(narrowest) :], narrowest
        self._buckets = Buckets(self.sizes, model._buckets.waste)

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} bitwise"

    @property
    def numerics(self) -> str:
        return BITWISE

    def bitwise(self) -> BitwiseModel:
        return self

    def open(self, capacity: int) -> UnrolledText:
        text = UnrolledText(capacity)
        self.pool.expect(text)
        return text

    def share(self, text: CacheHandle, other: CacheHandle, count: int) -> int:
        """0: a text is read in passes of its own widths, and other widths need not give the same bits."""
        return 0

    def fork(self, text: CacheHandle, nodes: Sequence[int]) -> CacheHandle:
        raise ModelError(
            "texts of passes that agree bit for bit do not fork, for nodes that are read again might differ; write bitwise=False"
        )

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        self._refuse_taps(taps)
        with self._turn:
            texts = [cast(UnrolledText, feed.text) for feed in feeds]
            with self.pool.entering(texts):
                before = [self._before(feed, text, taps) for feed, text in zip(feeds, texts, strict=True)]
                passed = [paths(feed, text) for feed, text in zip(feeds, texts, strict=True)]
                scored = iter(self._by_groups(self._placed(texts, passed), taps))
        return [
            self._joined(first, found, [next(scored) for _ in found], taps)
            for first, found in zip(before, passed, strict=True)
        ]

    def _before(self, feed: Feed, text: UnrolledText, taps: Sequence[str]) -> Scored | None:
        """Read what the request commits before its last token, in a pass that no other request and no draft is part of."""
        begin = text.read
        rows = enter(feed, text)
        if rows is None:
            return None
        self.pool.allot([(text, begin + len(rows.tokens))])
        return self._score([(rows, text.blocks)], taps)[0]

    def _placed(self, texts: Sequence[UnrolledText], passed: Sequence[list[Path]]) -> list[Placed]:
        """All paths with their blocks, which hold the text's last, partial block."""
        needs = [(text, text.needed(found) * CELLS) for text, found in zip(texts, passed, strict=True)]
        self.pool.allot(needs)
        placed: list[Placed] = []
        for text, found in zip(texts, passed, strict=True):
            blocks = text.place(found)
            if text.read % CELLS and len(found) > 1:
                self.pool.copy(text.owned[0][0], [own[0] for own in text.owned[1:]])
            placed += [(path.rows, held) for path, held in zip(found, blocks, strict=True)]
            text.unread = []
        return placed

    def _by_groups(self, placed: Sequence[Placed], taps: Sequence[str]) -> list[Scored]:
        """Passes of about TOGETHER rows at most."""
        group: list[Placed] = []
        found: list[Scored] = []
        for each in placed:
            if group and sum(len(rows.tokens) for rows, _ in [*group, each]) > TOGETHER:
                found += self._score(group, taps)
                group = []
            group.append(each)
        return found + (self._score(group, taps) if group else [])

    def _joined(
        self, before: Scored | None, found: Sequence[Path], scored: Sequence[Scored], taps: Sequence[str]
    ) -> Scored:
        """What a request gets: the last committed token first, then its nodes in order."""
        labels = [node for path in found for node in path.first]
        order = sorted(range(len(labels)), key=labels.__getitem__)
        if not labels:
            return before or Scored(torch.empty(0, self.vocab_size), {})
        states = {name: torch.cat([each.taps[name] for each in scored])[order] for name in taps}
        if before is not None:
            states = {name: torch.cat([before.taps[name], rows]) for name, rows in states.items()}
        return Scored(_picked([each.logits for each in scored], order), states)

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        cast(UnrolledText, text).keep(nodes)


def _picked(parts: Sequence[torch.Tensor], order: Sequence[int]) -> torch.Tensor:
    """Rows of all parts in this order; nothing is copied where that is how they are."""
    logits = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return logits if list(order) == list(range(len(logits))) else logits[list(order)]
